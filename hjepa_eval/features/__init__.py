"""The feature store; `read_features` maps a level of one into memory."""

from hjepa_eval.features.mapped import read_features, read_index, read_labels, read_store
from hjepa_eval.features.names import read_names

__all__ = ["read_features", "read_index", "read_labels", "read_names", "read_store"]
