"""The page: one HTML file with everything that records and galleries know, which opens from disk without network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hjepa_eval.errors import ResultError
from hjepa_eval.report.figures.drawing import css_variables
from hjepa_eval.report.figures.svg import Picture
from hjepa_eval.report.formats.named import write_output
from hjepa_eval.report.page.models import PageModel, class_names, page_levels, page_models
from hjepa_eval.report.page.neighbours import collect_thumbnails
from hjepa_eval.report.page.pairs import compare_all, headlines
from hjepa_eval.report.page.provenance import sources
from hjepa_eval.report.page.table import table_view
from hjepa_eval.report.page.template import page_parts, template_environment
from hjepa_eval.report.tables.model_pairs import Located
from hjepa_eval.report.tables.rounding import p_text, percent, points, points_within
from hjepa_eval.report.tables.selection import check_same_data
from hjepa_eval.report.tables.table import build_table, caption
from hjepa_eval.results.gallery import Gallery
from hjepa_eval.results.provenance import __version__
from hjepa_eval.results.text import visible

PARTS = {
    "overview": "Overview",
    "classes": "Classes",
    "neighbours": "Neighbours",
    "map": "Map",
    "pretraining": "Pretraining",
    "models": "Models",
    "provenance": "Provenance",
}
READING = (
    "Accuracy on test images at the level that was chosen without them, with its 95 % interval; leads are points of "
    "accuracy, with a paired interval where both records keep the outcome of every test image."
)
# What is more is in the table; the page says how many.
MOST_HEADLINES = 8
NO_GALLERY = (
    "There are no images of this model beside its records; running hjepa eval again, without --no-gallery, writes "
    "them from the features in its cache."
)


def build_page(located: Sequence[Located], galleries: Sequence[Gallery]) -> str:
    """Return the page of records of one dataset, and of the galleries that belong to them.

    What records or galleries lack is said where it would stand, with the command that adds it.

    Raises:
        ResultError: there are no records, they do not belong in one table, or a gallery is damaged.
    """
    if not located:
        raise ResultError("no result records for a page; hjepa eval writes some")
    check_same_data([each.record for each in located])
    environment = template_environment()
    environment.filters |= {"svg": _svg, "percent": percent, "points": points, "p_text": p_text}
    environment.globals["points_within"] = points_within
    return environment.get_template("report.html").render(
        **_content(located, galleries),
        **page_parts(style="style.css", script="report.js"),
        palette={"light": css_variables("light"), "dark": css_variables("dark")},
        version=__version__,
    )


def write_page(located: Sequence[Located], galleries: Sequence[Gallery], path: Path) -> Path:
    """Write the page and return its path.

    Raises:
        ResultError: it cannot be built, or not be written; no part of a file is left.
    """
    return write_output(path, build_page(located, galleries))


def _svg(picture: Picture) -> Any:
    """Return a picture's element as markup: report/svg.py has escaped what is data in it."""
    from markupsafe import Markup

    return Markup(picture.svg)


def _content(located: Sequence[Located], galleries: Sequence[Gallery]) -> Mapping[str, Any]:
    """Return what the template shows. Figures are imported here, for matplotlib is heavy."""
    from hjepa_eval.report.figures.cost import cost_pictures
    from hjepa_eval.report.figures.levels import legend, level_pictures
    from hjepa_eval.report.page.budget import fit
    from hjepa_eval.report.page.classes import classes_of
    from hjepa_eval.report.page.images import map_of, pretraining_of, thinned
    from hjepa_eval.report.page.neighbours import queries, unshown

    found = page_models(located, galleries)
    names = class_names(found)
    fitting = fit(found, len(names))
    thin = iter(thinned([model.gallery for model in fitting.models if model.gallery is not None]))
    models = [model if model.gallery is None else replace(model, gallery=next(thin)) for model in fitting.models]
    records = [each.record for each in located]
    table = build_table(records)
    thumbnails = collect_thumbnails([model.gallery for model in models if model.gallery is not None])
    compared, uncompared = compare_all(models)
    chosen = headlines(models, compared)
    shown = [each.record for model in models for each in model.located]
    classes = [view for model in fitting.with_classes for view in classes_of(model, names, shown)]
    maps = [map_of(model, thumbnails) for model in models]
    pretraining = [pretraining_of(model) for model in models]
    any_gallery = any(model.gallery is not None for model in models)
    return {
        "title": _title(models),
        "caption": caption(table),
        "parts": PARTS,
        "reading": READING,
        "models": models,
        "several": sum(not model.baseline for model in models) > 1,
        "levels": page_levels(models),
        "headlines": chosen[:MOST_HEADLINES],
        "more_headlines": len(chosen[MOST_HEADLINES:]),
        "table": table_view(table, records),
        "legend": legend(table),
        "pictures": level_pictures(table),
        "costs": {measure: cost_pictures(table, measure) for measure in ("gflop", "milliseconds")},
        "classes": classes,
        "classes_left": fitting.classes_left,
        "probes": list(dict.fromkeys(view.probe for view in classes)),
        "any_gallery": any_gallery,
        "no_gallery": NO_GALLERY,
        "galleries_left": fitting.galleries_left,
        "unshown": ["" if model.gallery is None else unshown(model.gallery) for model in models],
        "queries": [None if model.gallery is None else queries(model.gallery, thumbnails) for model in models],
        "maps": maps,
        "pretraining": pretraining,
        "any_run": any(view is not None for view in pretraining),
        "compared": compared,
        "uncompared": uncompared,
        "sources": sources(models),
        "notes": _notes(models, thumbnails.left_out),
        "thumbnails": thumbnails,
        "data": {
            "classes": [visible(name) for name in names],
            "points": {str(view.model): view.points for view in maps if view is not None},
        },
    }


def _notes(models: Sequence[PageModel], left_out: int) -> list[str]:
    """Return what galleries say of themselves, and what of them does not fit on a page."""
    notes = dict.fromkeys(note for m in models if m.gallery is not None for note in m.gallery.notes)
    fit = [f"{left_out:,} images have no thumbnail here, to keep the file small"] if left_out else []
    return [*notes, *fit]


def _title(models: Sequence[PageModel]) -> str:
    main = [model.name for model in models if not model.baseline]
    more = f" and {len(main) - 2} more" if len(main) > 2 else ""
    return ", ".join(main[:2]) + more
