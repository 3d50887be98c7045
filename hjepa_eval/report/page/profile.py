"""The page's part of profiles: of each model its grids, and what its levels know against where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hjepa_eval.report.figures.levels import what_where_picture
from hjepa_eval.report.figures.svg import Picture
from hjepa_eval.report.page.models import PageModel
from hjepa_eval.report.tables.curves import NO_CURVES, curves, sentences
from hjepa_eval.report.tables.grid import Grid
from hjepa_eval.report.tables.model_pairs import Located
from hjepa_eval.report.tables.prediction import prediction_grids
from hjepa_eval.report.tables.profile import grids, profile_caption
from hjepa_eval.report.tables.standing import is_twin_of_another
from hjepa_eval.results.profiles import Profile
from hjepa_eval.results.records import Record

NO_PROFILE = (
    "There is no profile of these models beside their records; hjepa profile --model M --dataset D, with --out naming "
    "the same folder, adds what their levels know beyond the class."
)


@dataclass(frozen=True)
class ProfileView:
    """A profile as the page shows it.

    Attributes:
        number: place among the profiles; ids use it.
        model: number of the page's model, None where the page has no records of it.
        name: of the model.
        caption: which images.
        baseline: whether it is there to be beaten.
        factors: the heat-map of factors; None without factors.
        others: all other grids.
        picture: what against where; None where no two curves can be compared.
        said: whether those curves cross.
        notes: of the profile.
    """

    number: int
    model: int | None
    name: str
    caption: str
    baseline: bool
    factors: Grid | None
    others: tuple[Grid, ...]
    picture: Picture | None
    said: tuple[str, ...]
    notes: tuple[str, ...]


def fitting_profiles(profiles: Sequence[Profile], located: Sequence[Located]) -> tuple[list[Profile], list[str]]:
    """Return the profiles of the records' images and models, and of baselines, and what to say of those left out."""
    names = list(dict.fromkeys(entry.record.model.name for entry in located))
    data = located[0].record.dataset
    same = [profile for profile in profiles if profile.dataset.key == data.key]
    known = [*names, *(profile.model.name for profile in profiles)]
    fit = [profile for profile in same if _belongs(profile, names, known)]
    others = sorted({profile.model.name for profile in same} - {profile.model.name for profile in fit})
    left = []
    if others:
        left.append(f"Profiles of {', '.join(others)} lie there too; hjepa report --profile shows them.")
    unlike = {p.model.name for p in profiles if p.dataset.name == data.name and p.dataset.key != data.key}
    if unlike:
        left.append(
            f"Profiles of {', '.join(sorted(unlike))} are of other images of {data.name} than the records, and not "
            "shown beside them; hjepa report --profile shows them."
        )
    return fit, left


def _belongs(profile: Profile, names: Sequence[str], known: Sequence[str]) -> bool:
    name = profile.model.name
    return name in names or (profile.baseline and any(not is_twin_of_another(name, model, known) for model in names))


def show_profiles(
    profiles: Sequence[Profile],
    models: Sequence[PageModel],
    left: Sequence[str] = (),
    *,
    records: Sequence[Record] = (),
) -> Mapping[str, Any]:
    """Return what the part's template shows."""
    numbers = {model.encoder: model.number for model in models}
    shown = sorted(profiles, key=lambda profile: profile.baseline)
    views = [_view(place, profile, numbers.get(profile.model.name), records) for place, profile in enumerate(shown)]
    texts = {"profiles_left": left, "no_profile": NO_PROFILE, "no_curves": NO_CURVES}
    return {"profiles": views, "predictions": prediction_grids(profiles), **texts}


def _view(number: int, profile: Profile, model: int | None, records: Sequence[Record]) -> ProfileView:
    tables = grids(profile)
    first = tables[0] if profile.factors else None
    drawn = curves(profile, records)
    title = f"What against where, {profile.model.name}"
    picture = what_where_picture(drawn, title=title, prefix=f"curves-{number}-") if drawn else None
    return ProfileView(
        number=number,
        model=model,
        name=profile.model.name,
        caption=profile_caption(profile.dataset),
        baseline=profile.baseline,
        factors=first,
        others=tuple(grid for grid in tables if grid is not first),
        picture=picture,
        said=tuple(sentences(profile, records)),
        notes=profile.notes + tuple(f"{level.name}: {note}" for level in profile.levels for note in level.notes),
    )
