"""How fast a model runs: every subject in its own process, measured in turns."""

from .measure import Plan, measure
from .report import Comparison, Report, Round, SubjectResult
from .subjects import Subject

__all__ = ["Comparison", "Plan", "Report", "Round", "Subject", "SubjectResult", "measure"]
