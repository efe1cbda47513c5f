"""The worth of frozen features: labelled images, feature extraction, linear probe."""

from .data import LabelledImages, open_labelled, stratified_subset
from .features import FeatureModel, FeatureSource, PooledFeatures, extract_features, load_feature_model
from .linear import ProbeOptions, ProbeResult, linear_probe
from .run import ProbeJob, run_linear_probe

__all__ = [
    "FeatureModel",
    "FeatureSource",
    "LabelledImages",
    "PooledFeatures",
    "ProbeJob",
    "ProbeOptions",
    "ProbeResult",
    "extract_features",
    "linear_probe",
    "load_feature_model",
    "open_labelled",
    "run_linear_probe",
    "stratified_subset",
]
