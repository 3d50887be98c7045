"""What tables call the scores of a probe: its records carry it, and for records of before it is looked up here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from hjepa_eval.config import Settings


class Heading(Settings):
    """How the scores of a probe are headed.

    Attributes:
        title: the probe, as in a list: `kNN`.
        score: the heading of a score, with its parameters in braces: `kNN k={k}`; the title when empty.
        usual: the protocol that a heading need not name.
        spelled: parameters of the record that `score` spells already.
        place: among the columns, from the left; after the built-in probes when not given.
    """

    title: str
    score: str = ""
    usual: str = ""
    spelled: tuple[str, ...] = ()
    place: int = 100

    def of(self, metric: str, parameters: Mapping[str, Any]) -> str:
        """Return the heading of a score by its metric and parameters."""
        name = re.sub(r"\{(\w+)\}", lambda match: str(parameters.get(match[1], "")), self.score or self.title)
        return f"{name}, superclasses" if metric == "superclass" else name


HEADINGS = {
    "knn": Heading(title="kNN", score="kNN k={k}", usual="dino-knn", spelled=("k", "leave_one_out", "index"), place=0),
    "linear": Heading(title="linear", usual="logreg", place=1),
    "fewshot": Heading(
        title="few-shot",
        score="{ways}-way {shots}-shot",
        usual="few-shot-prototype",
        spelled=("shots", "ways", "queries"),
        place=2,
    ),
    "lowshot": Heading(title="low-shot", score="{labels}", spelled=("fraction", "per_class", "list"), place=3),
    "attentive": Heading(
        title="attentive", score="attentive {reads}", usual="efficient-probing", spelled=("readout",), place=5
    ),
    "dense": Heading(title="dense", spelled=("readout",), place=6),
    "finetune": Heading(title="finetune", usual="finetune", place=4),
}


def knn_heading(parameters: Mapping[str, Any]) -> Heading:
    """Return the heading of kNN with such parameters: it says how was searched where that is unusual."""
    index = parameters.get("index", "flat")
    kind = f"kNN{' leave-one-out' if parameters.get('leave_one_out') else ''}{'' if index == 'flat' else f' {index}'}"
    return HEADINGS["knn"].model_copy(update={"score": f"{kind} k={{k}}"})


_DENSE = {
    "knn-segmentation": "kNN segmentation, mIoU",
    "linear-segmentation": "linear segmentation, mIoU",
    "depth": "depth, R2",
    "correspondence": "correspondence",
    "discovery": "discovery, CorLoc",
}


def dense_heading(protocol: str) -> Heading:
    """Return the heading of a dense protocol."""
    return HEADINGS["dense"].model_copy(update={"score": _DENSE.get(protocol, ""), "usual": protocol})


def heading_of(probe: str, parameters: Mapping[str, Any]) -> Heading:
    """Return the heading of a probe by the name in its record, for records that carry none."""
    return knn_heading(parameters) if probe == "knn" else HEADINGS.get(probe) or Heading(title=probe)
