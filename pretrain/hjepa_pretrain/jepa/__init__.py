"""JEPA for any data: any encoder, any predictor, and parts to begin with. `hjepa_pretrain.fitting.fit` trains them."""

from hjepa_pretrain.jepa.encoders import CNNEncoder, Encoder, MLPEncoder
from hjepa_pretrain.jepa.jepa import JEPA
from hjepa_pretrain.jepa.learner import Learner
from hjepa_pretrain.jepa.losses import LOSSES
from hjepa_pretrain.jepa.patterns import CrossModalEncoder, HierarchicalPredictor, MultiScaleEncoder
from hjepa_pretrain.jepa.predictors import AttentionPredictor, Predictor, RecurrentPredictor
from hjepa_pretrain.jepa.saved import BaseModel

__all__ = [
    "JEPA",
    "LOSSES",
    "AttentionPredictor",
    "BaseModel",
    "CNNEncoder",
    "CrossModalEncoder",
    "Encoder",
    "HierarchicalPredictor",
    "Learner",
    "MLPEncoder",
    "MultiScaleEncoder",
    "Predictor",
    "RecurrentPredictor",
]
