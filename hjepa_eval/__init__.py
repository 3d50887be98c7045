"""hjepa: what does each level of a hierarchical vision encoder know?

    import hjepa_eval as hjepa

    result = hjepa.evaluate("runs/demo", "digits", probes=["knn", "linear"])

Names are loaded when they are first used: importing this package loads nothing else of it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hjepa_eval.datasets import load_dataset
    from hjepa_eval.encoders import load_encoder
    from hjepa_eval.errors import HjepaError
    from hjepa_eval.evaluation.evaluate import evaluate
    from hjepa_eval.evaluation.front import compare, extract, profile, read_records, search
    from hjepa_eval.evaluation.models.imported import import_features
    from hjepa_eval.evaluation.probe import Probe
    from hjepa_eval.evaluation.result import Compared, Result
    from hjepa_eval.features import read_features, read_index, read_labels, read_names, read_store
    from hjepa_eval.probes.few_labels.few_shot import few_shot
    from hjepa_eval.probes.few_labels.low_shot import low_shot
    from hjepa_eval.probes.knn import knn
    from hjepa_eval.probes.linear.linear import logistic_regression
    from hjepa_eval.probes.linear.ridge import ridge_regression
    from hjepa_eval.probes.samples import Samples
    from hjepa_eval.report.written import report
    from hjepa_eval.results.provenance import __version__

__all__ = [
    "Compared",
    "HjepaError",
    "Probe",
    "Result",
    "Samples",
    "__version__",
    "compare",
    "evaluate",
    "extract",
    "few_shot",
    "import_features",
    "knn",
    "load_dataset",
    "load_encoder",
    "logistic_regression",
    "low_shot",
    "profile",
    "read_features",
    "read_index",
    "read_labels",
    "read_names",
    "read_records",
    "read_store",
    "report",
    "ridge_regression",
    "search",
]

_HOMES = {
    "Compared": "hjepa_eval.evaluation.result",
    "HjepaError": "hjepa_eval.errors",
    "Probe": "hjepa_eval.evaluation.probe",
    "Result": "hjepa_eval.evaluation.result",
    "Samples": "hjepa_eval.probes.samples",
    "__version__": "hjepa_eval.results.provenance",
    "compare": "hjepa_eval.evaluation.front",
    "evaluate": "hjepa_eval.evaluation.evaluate",
    "extract": "hjepa_eval.evaluation.front",
    "few_shot": "hjepa_eval.probes.few_labels.few_shot",
    "import_features": "hjepa_eval.evaluation.models.imported",
    "knn": "hjepa_eval.probes.knn",
    "load_dataset": "hjepa_eval.datasets",
    "load_encoder": "hjepa_eval.encoders",
    "logistic_regression": "hjepa_eval.probes.linear.linear",
    "low_shot": "hjepa_eval.probes.few_labels.low_shot",
    "profile": "hjepa_eval.evaluation.front",
    "read_features": "hjepa_eval.features",
    "read_index": "hjepa_eval.features",
    "read_labels": "hjepa_eval.features",
    "read_names": "hjepa_eval.features",
    "read_records": "hjepa_eval.evaluation.front",
    "read_store": "hjepa_eval.features",
    "ridge_regression": "hjepa_eval.probes.linear.ridge",
    "search": "hjepa_eval.evaluation.front",
}


def __getattr__(name: str) -> Any:
    """Give a name of `__all__`, from the module that it lives in; `report` is a room that can be called."""
    if name == "report":
        return import_module("hjepa_eval.report")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """Return the names, for completion."""
    return sorted(__all__)
