"""How fast a model runs: every subject in its own process, measured in turns."""

from .results.results import Comparison, Report, Round, SubjectResult
from .results.subjects import Subject
from .run.measure import measure
from .run.plan import Plan

__all__ = ["Comparison", "Plan", "Report", "Round", "Subject", "SubjectResult", "measure"]
