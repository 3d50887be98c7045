"""Context encoder, target encoder, predictor, and H-JEPA, which joins them."""

from hjepa_pretrain.models.encoders import ContextEncoder, TargetEncoder
from hjepa_pretrain.models.factory import create_hjepa, create_hjepa_from_config
from hjepa_pretrain.models.hjepa import HJEPA
from hjepa_pretrain.models.predictor import Predictor, PredictorBlock
from hjepa_pretrain.models.projector import Projector
from hjepa_pretrain.models.stages import AveragedStages, MaskedStages

__all__ = [
    "HJEPA",
    "AveragedStages",
    "ContextEncoder",
    "MaskedStages",
    "Predictor",
    "PredictorBlock",
    "Projector",
    "TargetEncoder",
    "create_hjepa",
    "create_hjepa_from_config",
]
