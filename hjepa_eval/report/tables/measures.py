"""Single numbers of levels, such as ranks, dimensions and recall, as grids: a line per measure, a column per level."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hjepa_eval.report.tables.grid import Grid, GridCell, GridLine, column_of, level_grid
from hjepa_eval.results.profiles import LevelProfile, Measure, Profile


def geometry_grid(profile: Profile) -> Grid | None:
    """Return the geometry of each level's features."""
    return _grid(
        profile,
        lambda level: level.geometry,
        title="Geometry",
        lede="The shape of each level's features, measured on the same images at every level.",
    )


def neighbour_grid(profile: Profile) -> Grid | None:
    """Return how each level serves retrieval, clustering and whatever else uses neighbours."""
    return _grid(
        profile,
        lambda level: level.neighbours,
        title="Neighbours as products use them",
        lede="Retrieval, clustering and detection with the nearest neighbours; shares, of which 1 is all.",
    )


def heading(measure: Measure) -> str:
    """Return a measure's name, with how many neighbours it takes where it says so."""
    return f"{measure.name} k={measure.parameters['k']}" if "k" in measure.parameters else measure.name


def number(value: float | None) -> str:
    """Return a measure's value with three digits."""
    return "\N{EN DASH}" if value is None else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _grid(
    profile: Profile, of_level: Callable[[LevelProfile], Sequence[Measure]], *, title: str, lede: str
) -> Grid | None:
    levels = [level for level in profile.levels if of_level(level)]
    headings = dict.fromkeys(heading(measure) for level in levels for measure in of_level(level))
    lines = []
    # Several measures may be biased alike.
    said: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for name in headings:
        measures = [next((m for m in of_level(level) if heading(m) == name), None) for level in levels]
        chances = {measure.chance for measure in measures if measure is not None and measure.chance is not None}
        reads = f"chance {number(chances.pop())}" if len(chances) == 1 else ""
        cells = (
            None if measure is None else _cell(measure, column_of(level))
            for measure, level in zip(measures, levels, strict=True)
        )
        lines.append(GridLine(name, reads, tuple(cells)))
        noted = [(m.note, str(level.level)) for m, level in zip(measures, levels, strict=True) if m and m.note]
        for note in dict.fromkeys(note for note, _ in noted):
            where = tuple(number for other, number in noted if other == note)
            said.setdefault((note, where), []).append(name)
    notes = [f"{', '.join(names)}, level {', '.join(where)}: {note}" for (note, where), names in said.items()]
    return level_grid(levels, lines, title=title, lede=lede, corner="measure", notes=notes)


def _cell(measure: Measure, column: str) -> GridCell:
    below = ""
    if measure.low is not None and measure.high is not None:
        below = f"{number(measure.low)} to {number(measure.high)}"
    elif len(measure.values) > 1:
        below = f"{number(min(measure.values))} to {number(max(measure.values))}"
    kind = "95 % interval" if measure.low is not None else f"{len(measure.values)} seeds from"
    parts = [
        f"{heading(measure)}, {column}: {number(measure.value)}",
        f"{kind} {below}" if below else "",
        *(f"{key} {value}" for key, value in measure.parameters.items() if key != "k"),
        f"{measure.num_samples:,} images",
        measure.note,
    ]
    return GridCell(number(measure.value), below, about="; ".join(part for part in parts if part))
