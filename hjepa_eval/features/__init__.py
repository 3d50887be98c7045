"""The feature store; `read_features` maps a level of one into memory."""

from hjepa_eval.features.mapped import read_features, read_index, read_labels

__all__ = ["read_features", "read_index", "read_labels"]
