"""The worth of a backbone: the accuracy of a linear probe on its frozen features, and its speed.

Public names are loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinyvit.core.lazy import lazy_names

if TYPE_CHECKING:
    from .probe import ProbeJob, ProbeResult, linear_probe, run_linear_probe
    from .speed import Plan, Report, Subject, SubjectResult, measure

_HOME = {
    "Plan": "speed",
    "ProbeJob": "probe",
    "ProbeResult": "probe",
    "Report": "speed",
    "Subject": "speed",
    "SubjectResult": "speed",
    "linear_probe": "probe",
    "measure": "speed",
    "run_linear_probe": "probe",
}

__all__ = [
    "Plan",
    "ProbeJob",
    "ProbeResult",
    "Report",
    "Subject",
    "SubjectResult",
    "linear_probe",
    "measure",
    "run_linear_probe",
]

__getattr__, __dir__ = lazy_names(__name__, _HOME)
