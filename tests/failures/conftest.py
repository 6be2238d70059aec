"""The tiny model and its training, as in tests/frameworks."""

from tiny_training import tiny_model, training_yaml

__all__ = ["tiny_model", "training_yaml"]
