"""The page: one HTML file with everything that records and galleries know, which opens from disk without network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hjepa_eval.report.figures.drawing import css_variables
from hjepa_eval.report.figures.svg import Picture
from hjepa_eval.report.formats.named import write_output
from hjepa_eval.report.formats.ranks import texts
from hjepa_eval.report.page.models import PageModel, page_levels
from hjepa_eval.report.page.neighbours import collect_thumbnails
from hjepa_eval.report.page.pairs import headlines
from hjepa_eval.report.page.parts import PARTS, Contents, collect
from hjepa_eval.report.page.profile import show_profiles
from hjepa_eval.report.page.template import page_parts, template_environment
from hjepa_eval.report.tables.model_pairs import Located
from hjepa_eval.report.tables.profile import profile_caption
from hjepa_eval.report.tables.rounding import gain_within, p_text, percent, points
from hjepa_eval.report.tables.selection import select
from hjepa_eval.report.tables.table import caption
from hjepa_eval.results.gallery import Gallery
from hjepa_eval.results.profiles import Profile
from hjepa_eval.results.provenance import __version__
from hjepa_eval.results.text import visible

READING = (
    "Accuracy on test images at the level that was chosen without them, with its 95 % interval; leads are points of "
    "accuracy, with a paired interval where both records keep the outcome of every test image."
)
# What is more is in the table; the page says how many.
MOST_HEADLINES = 8


def build_page(located: Sequence[Located], galleries: Sequence[Gallery], *, profiles: Sequence[Profile] = ()) -> str:
    """Return the page of records of one dataset, and of the galleries and profiles of the same images.

    What records or galleries lack is said where it would stand, with the command that adds it. Of profiles alone the
    page has their part and no other.

    Raises:
        ResultError: there is nothing to show, it does not belong in one table, or a gallery is damaged.
    """
    alone = profiles and not located
    content = _profiles_alone(profiles) if alone else _content(collect(select(located), galleries, profiles))
    environment = template_environment()
    environment.filters |= {
        "svg": _svg,
        "percent": percent,
        "points": points,
        "p_text": p_text,
        "gain_within": gain_within,
        "rank_texts": texts,
    }
    return environment.get_template("report.html").render(
        **content,
        **page_parts(style="style.css", script="report.js"),
        palette={"light": css_variables("light"), "dark": css_variables("dark")},
        version=__version__,
    )


def write_page(
    located: Sequence[Located], galleries: Sequence[Gallery], path: Path, *, profiles: Sequence[Profile] = ()
) -> Path:
    """Write the page and return its path.

    Raises:
        ResultError: it cannot be built, or not be written; no part of a file is left.
    """
    return write_output(path, build_page(located, galleries, profiles=profiles))


def _svg(picture: Picture) -> Any:
    """Return a picture's element as markup: report/svg.py has escaped what is data in it."""
    from markupsafe import Markup

    return Markup(picture.svg)


def _content(page: Contents) -> Mapping[str, Any]:
    """Return what the template shows: of the page as a whole, and of each part."""
    models, chosen = page.models, headlines(page.models, page.compared, page.selection.heading)
    shown: dict[str, Any] = {}
    for part in PARTS.values():
        shown |= part.show(page)
    controls = ("level", "model", "probe")
    used = {control: [name for name, part in PARTS.items() if control in part.chosen_by] for control in controls}
    points = {str(view.model): view.points for view in shown["maps"] if view is not None}
    return {
        **shown,
        "title": _title(models),
        "caption": caption(page.table),
        "parts": {name: part for name, part in PARTS.items() if not part.shown_by or shown[part.shown_by]},
        "reading": READING,
        "models": models,
        "several": sum(not model.baseline for model in models) > 1,
        "levels": page_levels(models),
        "headlines": chosen[:MOST_HEADLINES],
        "more_headlines": len(chosen[MOST_HEADLINES:]),
        "notes": _notes(models, page.thumbnails.left_out),
        "thumbnails": page.thumbnails,
        "data": {"classes": [visible(name) for name in page.names], "points": points, "used_by": used},
    }


def _profiles_alone(profiles: Sequence[Profile]) -> Mapping[str, Any]:
    """Return what the template shows of profiles without records."""
    levels = {level.level: level.name for profile in profiles for level in profile.levels if not level.fused}
    main = [profile for profile in profiles if not profile.baseline]
    return {
        **show_profiles(profiles, ()),
        "title": ", ".join(dict.fromkeys(profile.model.name for profile in main or profiles)),
        "caption": profile_caption(profiles[0].dataset),
        "parts": {"profile": PARTS["profile"]},
        "reading": "",
        **dict.fromkeys(("models", "probes", "headlines", "more_headlines", "notes"), ()),
        "several": False,
        "levels": levels,
        "thumbnails": collect_thumbnails([]),
        "data": {"classes": [], "points": {}, "used_by": {"level": ["profile"], "model": [], "probe": []}},
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
