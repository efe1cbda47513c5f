"""Pages of runs: curves and images of a training, an evaluation or a probe, in one HTML file that
loads nothing from elsewhere.
"""

from .runs import detection_page, pretrain_page, probe_page

__all__ = ["detection_page", "pretrain_page", "probe_page"]
