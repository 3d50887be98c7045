"""Which records a report is of: found with their files, narrowed by dataset and model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hjepa_eval.errors import unknown
from hjepa_eval.report.baselines import is_baseline, is_twin_of_another
from hjepa_eval.report.model_pairs import Located
from hjepa_eval.results import read_record, record_files


def locate(paths: Sequence[Path]) -> list[Located]:
    """Return the records in files and folders, each with where it was read.

    Raises:
        ResultError: a path does not exist, a file is no record, or there are none at all.
    """
    return [Located(read_record(file), file.parent, file) for file in record_files(paths)]


def keep(located: Sequence[Located], *, dataset: str | None = None, models: Sequence[str] = ()) -> list[Located]:
    """Return the records of a dataset and of models; baselines stay beside models unless one of them is named.

    Raises:
        UnknownNameError: a name fits no record; the message lists what there is.
    """
    if dataset is not None:
        names = list(dict.fromkeys(each.record.dataset.name for each in located))
        if dataset not in names:
            raise unknown("dataset in these records", dataset, names)
        located = [each for each in located if each.record.dataset.name == dataset]
    if not models:
        return list(located)
    names = list(dict.fromkeys(each.record.model.name for each in located))
    for model in models:
        if model not in names:
            raise unknown("model in these records", model, names)
    return [each for each in located if _stays(each.record.model.name, models, names)]


def _stays(name: str, wanted: Sequence[str], names: Sequence[str]) -> bool:
    if name in wanted or not is_baseline(name) or any(is_baseline(model) for model in wanted):
        return name in wanted
    # The untrained twin of a model that is left out goes with it.
    return any(not is_twin_of_another(name, model, names) for model in wanted)
