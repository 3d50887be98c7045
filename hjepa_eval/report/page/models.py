"""What a page is of: its models with their records and galleries, and the levels that can be chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hjepa_eval.report.tables.model_pairs import Located
from hjepa_eval.report.tables.selection import Selection
from hjepa_eval.results.gallery import Gallery


@dataclass(frozen=True)
class PageModel:
    """A model on the page.

    Attributes:
        number: place among the page's models; ids and selectors use it, for names may hold anything.
        name: as headed in the table.
        located: its records.
        gallery: its images, if any.
        baseline: whether it is there to be beaten.
    """

    number: int
    name: str
    located: tuple[Located, ...]
    gallery: Gallery | None
    baseline: bool

    @property
    def encoder(self) -> str:
        """The encoder's name, as in its records."""
        return self.located[0].record.model.name

    @property
    def levels(self) -> dict[int, str]:
        """Number -> name of its single levels, those of records before those of the gallery."""
        found = {level.level: level.name for each in self.located for level in each.record.levels if not level.fused}
        images = {} if self.gallery is None else dict(self.gallery.levels)
        return dict(sorted({**images, **found}.items()))


def page_models(selection: Selection, galleries: Sequence[Gallery]) -> list[PageModel]:
    """Return the models of a selection; a gallery goes to the records of the same features."""
    models = []
    for number, (name, own) in enumerate(selection.by_model().items()):
        stores = {(each.record.extraction.train_store, each.record.extraction.test_store) for each in own}
        # Two names may stand for one encoder, and so for the same features.
        fitting = [gallery for gallery in galleries if (gallery.train_store, gallery.test_store) in stores]
        named = [gallery for gallery in fitting if gallery.model == own[0].record.model.name]
        gallery = next(iter(named or fitting), None)
        models.append(PageModel(number, name, tuple(own), gallery, selection.beaten(own[0].record)))
    return models


def page_levels(models: Sequence[PageModel]) -> dict[int, str]:
    """Return number -> name of every level of any model; the name is the first model's that has it."""
    found: dict[int, str] = {}
    for model in models:
        found = {**model.levels, **found}
    return dict(sorted(found.items()))


def class_names(models: Sequence[PageModel]) -> list[str]:
    """Return the names of all classes: a gallery's, else those that records count; numbers where they lack some."""
    for model in models:
        if model.gallery is not None:
            return list(model.gallery.class_names)
    records = [each.record for model in models for each in model.located]
    count = records[0].dataset.num_classes
    counted = (list(level.per_class) for record in records for level in record.levels)
    return next((names for names in counted if len(names) == count), [str(number) for number in range(count)])
