"""Pages of runs: curves, numbers and images, in one HTML file that loads nothing from elsewhere."""

from .data import data_page
from .runs import detection_page, pretrain_page, probe_page

__all__ = ["data_page", "detection_page", "pretrain_page", "probe_page"]
