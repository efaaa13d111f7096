"""Ready architectures: the published one, its ablations, and a small one."""

from keras_mgrade.models.classifier import mgrade_classifier
from keras_mgrade.models.paper import (
    paper_convolution,
    paper_mgrade,
    paper_min_gru,
)

__all__ = [
    "mgrade_classifier",
    "paper_convolution",
    "paper_mgrade",
    "paper_min_gru",
]
