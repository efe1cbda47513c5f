"""How fast a model runs: every subject in its own process, measured in turns."""

from .results.measurements import Round, SubjectResult
from .results.report import Comparison, Report
from .results.subjects import Subject
from .run.measure import measure
from .run.plan import Plan

__all__ = ["Comparison", "Plan", "Report", "Round", "Subject", "SubjectResult", "measure"]
