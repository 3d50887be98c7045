"""Named ways to learn from few labels, as published, each with what it does not reproduce.

DINO and MSN fit cyanure's `MultiClassifier`, which minimises (1/n) sum_i CE_i + (lambda / 2) |W|^2 with lambda = l / n.
Times n / l that is (1 / l) sum_i CE_i + |W|^2 / 2, scikit-learn's objective with C = 1 / l. (Cyanure's page gives
C = 1 / (2 n lambda), which does not follow from its own objective.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypedDict

from hjepa_eval.errors import look_up
from hjepa_eval.probes.few_labels.low_shot import DEFAULT_GRIDS, Classifier
from hjepa_eval.probes.linear.scaling import Scaling


class LowShotArguments(TypedDict):
    """The arguments of `low_shot` that a protocol fixes."""

    classifier: Classifier
    scaling: Scaling
    grid: tuple[float, ...]


@dataclass(frozen=True)
class LowShotProtocol:
    """One way to learn from few labels.

    Attributes:
        name: as on the command line.
        source: whose it is, and where it is written.
        classifier: `knn`, `logreg` or `ridge`.
        scaling: of the features.
        grid: values of k, C or penalty; several are chosen from inside the subset.
        deviations: what differs from the source.
    """

    name: str
    source: str
    classifier: Classifier
    scaling: Scaling
    grid: tuple[float, ...]
    deviations: tuple[str, ...]

    def arguments(self) -> LowShotArguments:
        """Return what to pass to `low_shot`."""
        return {"classifier": self.classifier, "scaling": self.scaling, "grid": self.grid}


_IMAGES = "the images' resize and crop are the feature store's, not the source's"
_DRAWS = "subsets are drawn by numpy's generator, so they are not the source's images unless its list is given"
_INTERCEPT = "an intercept without penalty is fitted; the source has none"
_SOLVER = "solved to a proven gap of 1e-4; the source stops at a relative duality gap of 1e-3 or its last epoch"

_ALL = (
    LowShotProtocol(
        "dino-lowshot",
        "DINO's 1 % of ImageNet (facebookresearch/dino issue 121): features as eval_knn.py stores them, L2-normalised; "
        "multinomial logistic regression, lambda = 0.1 / n, that is C = 10",
        "logreg",
        "l2",
        (10.0,),
        (_INTERCEPT, _SOLVER, _IMAGES, _DRAWS),
    ),
    LowShotProtocol(
        "msn-lowshot",
        "MSN logistic_eval.py (arXiv:2204.07141): rows centred and L2-normalised; logistic regression, the README's "
        "lambda = 0.0025 / n, that is C = 400 (the script's default, 0.00025 / n, is C = 4000)",
        "logreg",
        "centred-l2",
        (400.0,),
        (_INTERCEPT, _SOLVER, _IMAGES, _DRAWS),
    ),
    LowShotProtocol(
        "logreg-lowshot",
        "DINOv3 eval/log_regression.py, few-shot: C chosen on held-out images, then a fit to the subset",
        "logreg",
        "l2",
        DEFAULT_GRIDS["logreg"],
        (
            "C is chosen by cross-validation inside the subset; the source holds out 1 % of the whole train set, "
            "labels that the subset does not have",
            "17 values of C from 1e-4 to 1e4, not 45 from 1e-6 to 1e5; features are L2-normalised, unlike the source's",
            _IMAGES,
            _DRAWS,
        ),
    ),
    LowShotProtocol(
        "knn-lowshot",
        "DINOv3 eval/knn.py, few-shot: cosine, T = 0.07, k clipped to the subset; k = 20 as DINO and DINOv2 advise",
        "knn",
        "none",
        (20.0,),
        (
            "one k = 20, where the source lists 10, 20, 100 and 200; DINOv2 drops every k above the images per class "
            "and adds k = images per class",
            "ties are broken by the nearer neighbour, then the lower index; the source leaves them to the machine",
            "a fraction of a class is rounded; the source cuts it down",
            _IMAGES,
            _DRAWS,
        ),
    ),
    LowShotProtocol(
        "ridge-lowshot",
        "big_vision evaluators/fewshot_lsr.py: targets of +-1, columns standardised by the subset (std + 1e-5), "
        "penalty 2^10, all classes, the full test set, three draws",
        "ridge",
        "standardised",
        (1024.0,),
        (
            "the intercept has no penalty; the source's is a constant feature of 100, penalised like the others",
            _IMAGES,
            _DRAWS,
        ),
    ),
)
LOW_SHOT_PROTOCOLS: Mapping[str, LowShotProtocol] = MappingProxyType({protocol.name: protocol for protocol in _ALL})


def low_shot_protocol(name: str) -> LowShotProtocol:
    """Return the protocol called `name`.

    Raises:
        UnknownNameError: there is none.
    """
    return look_up("low-shot protocol", name, LOW_SHOT_PROTOCOLS)
