"""The parts of the page: each a heading, a template of its name, and what that shows. A new part is a line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hjepa_eval.report.formats.ranks import HEADER
from hjepa_eval.report.page.models import PageModel, class_names, page_models
from hjepa_eval.report.page.neighbours import Thumbnails, collect_thumbnails, queries, unshown
from hjepa_eval.report.page.pairs import Compared, compare_all
from hjepa_eval.report.page.profile import fitting_profiles, show_profiles
from hjepa_eval.report.page.provenance import sources
from hjepa_eval.report.page.table import table_view
from hjepa_eval.report.page.tokens import token_views
from hjepa_eval.report.tables.ranking import ABOUT, rankings
from hjepa_eval.report.tables.selection import Selection
from hjepa_eval.report.tables.table import Table, build_table
from hjepa_eval.results.gallery import Gallery
from hjepa_eval.results.profiles import Profile

NO_GALLERY = (
    "There are no images of this model beside its records; running hjepa eval again, without --no-gallery, writes "
    "them from the features in its cache."
)


@dataclass(frozen=True)
class Contents:
    """What the parts of a page are made of; what costs time is made once for all of them.

    Attributes:
        selection: the records.
        table: of the selection.
        models: with the galleries that fit on the page.
        with_classes: the same models with the records whose confusion matrices fit.
        galleries_left: number -> what to say where the images of a model would stand.
        classes_left: which matrices are left out, in a sentence; empty when all fit.
        names: of the classes.
        thumbnails: the small images, each once.
        compared: the models against each other.
        uncompared: how many more pairs of models there are.
        profiles: of the same images and models.
        profiles_left: what to say of others beside them.
    """

    selection: Selection
    table: Table
    models: Sequence[PageModel]
    with_classes: Sequence[PageModel]
    galleries_left: Mapping[int, str]
    classes_left: str
    names: Sequence[str]
    thumbnails: Thumbnails
    compared: Sequence[Compared]
    uncompared: int
    profiles: Sequence[Profile]
    profiles_left: Sequence[str]


def collect(selection: Selection, galleries: Sequence[Gallery], profiles: Sequence[Profile] = ()) -> Contents:
    """Return what a page of a selection, and of the galleries and profiles beside it, is made of."""
    from hjepa_eval.report.page.budget import fit
    from hjepa_eval.report.page.images import thinned

    models = page_models(selection, galleries)
    names = class_names(models)
    fitting = fit(models, len(names))
    thin = iter(thinned([model.gallery for model in fitting.models if model.gallery is not None]))
    shown = [model if model.gallery is None else replace(model, gallery=next(thin)) for model in fitting.models]
    compared, uncompared = compare_all(shown)
    beside, left = fitting_profiles(profiles, selection.located)
    return Contents(
        selection=selection,
        table=build_table(selection),
        models=shown,
        with_classes=fitting.with_classes,
        galleries_left=fitting.galleries_left,
        classes_left=fitting.classes_left,
        names=names,
        thumbnails=collect_thumbnails([model.gallery for model in shown if model.gallery is not None]),
        compared=compared,
        uncompared=uncompared,
        profiles=beside,
        profiles_left=left,
    )


@dataclass(frozen=True)
class Part:
    """A part of the page; its template is `NAME.html`, NAME being its key in `PARTS`.

    Attributes:
        heading: on its tab.
        show: makes the names that its template uses. Figures are imported inside, for matplotlib is heavy.
        chosen_by: which of the selectors `level`, `model` and `probe` choose what it shows.
        shown_by: the name without which there is no such part; empty for one that always is.
    """

    heading: str
    show: Callable[[Contents], Mapping[str, Any]]
    chosen_by: tuple[str, ...] = ()
    shown_by: str = ""


def _overview(page: Contents) -> dict[str, Any]:
    from hjepa_eval.report.figures.cost import cost_pictures
    from hjepa_eval.report.figures.levels import legend, level_pictures

    return {
        "table": table_view(page.table, page.selection),
        "legend": legend(page.table),
        "pictures": level_pictures(page.table),
        "costs": {measure: cost_pictures(page.table, measure) for measure in ("gflop", "milliseconds")},
    }


def _profile(page: Contents) -> Mapping[str, Any]:
    records = [entry.record for entry in page.selection.located]
    return show_profiles(page.profiles, page.models, page.profiles_left, records=records)


def _tokens(page: Contents) -> dict[str, Any]:
    return {"token_views": token_views(page.selection.records)}


def _classes(page: Contents) -> dict[str, Any]:
    from hjepa_eval.report.page.classes import classes_of

    views = [view for model in page.with_classes for view in classes_of(model, page.names, page.selection.heading)]
    probes = list(dict.fromkeys(view.probe for view in views))
    return {"classes": views, "classes_left": page.classes_left, "probes": probes}


def _neighbours(page: Contents) -> dict[str, Any]:
    return {
        "any_gallery": any(model.gallery is not None for model in page.models),
        "no_gallery": NO_GALLERY,
        "galleries_left": page.galleries_left,
        "unshown": ["" if model.gallery is None else unshown(model.gallery) for model in page.models],
        "queries": [
            None if model.gallery is None else queries(model.gallery, page.thumbnails) for model in page.models
        ],
    }


def _map(page: Contents) -> dict[str, Any]:
    from hjepa_eval.report.page.images import map_of

    return {"maps": [map_of(model, page.thumbnails) for model in page.models]}


def _pretraining(page: Contents) -> dict[str, Any]:
    from hjepa_eval.report.page.images import pretraining_of

    views = [pretraining_of(model) for model in page.models]
    return {"pretraining": views, "any_run": any(view is not None for view in views)}


def _models(page: Contents) -> dict[str, Any]:
    return {"compared": page.compared, "uncompared": page.uncompared}


def _ranking(page: Contents) -> dict[str, Any]:
    return {"rankings": rankings(page.selection), "about_ranking": ABOUT, "rank_header": HEADER}


def _provenance(page: Contents) -> dict[str, Any]:
    return {"sources": sources(page.models)}


PARTS = {
    "overview": Part("Overview", _overview, ("level",)),
    "profile": Part("Profile", _profile, ("level", "model")),
    "tokens": Part("Tokens", _tokens, shown_by="token_views"),
    "classes": Part("Classes", _classes, ("level", "model", "probe")),
    "neighbours": Part("Neighbours", _neighbours, ("level", "model")),
    "map": Part("Map", _map, ("level", "model")),
    "pretraining": Part("Pretraining", _pretraining, ("model",)),
    "ranking": Part("Ranking", _ranking),
    "models": Part("Models", _models),
    "provenance": Part("Provenance", _provenance),
}
