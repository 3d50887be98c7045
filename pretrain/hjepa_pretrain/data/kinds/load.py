"""Corpora by the task of a run."""

from __future__ import annotations

from hjepa_pretrain.config.learners import KindData
from hjepa_pretrain.data.kinds import captioned, series, tables, texts
from hjepa_pretrain.data.kinds.corpus import Corpus


def load_corpus(task: str, data: KindData) -> Corpus:
    """Return the data of a task: `series`, `text`, `tabular` or `image_text`.

    Raises:
        HjepaError: there is no such set, a package is absent, or data are damaged.
    """
    if task == "series":
        return series.load_series(data.sets or series.SETS, length=data.length)
    if task == "text":
        return texts.load_texts(data.sets or tuple(texts.SETS), length=data.length)
    if task == "tabular":
        return tables.load_tables(data.sets or tuple(tables.SETS))
    return captioned.load_captioned(data.sets or captioned.SETS)
