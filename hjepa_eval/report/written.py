"""A report of records as text or as a file, in the format that its name says; and an evaluation's own three files."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from hjepa_eval.errors import ConfigError, ResultError, first_few, unknown
from hjepa_eval.report.formats.named import FORMATS, brief_table, write_output
from hjepa_eval.report.formats.profiles import PROFILE_FORMATS
from hjepa_eval.report.formats.ranks import RANK_FORMATS
from hjepa_eval.report.tables.model_pairs import Located
from hjepa_eval.report.tables.selection import check_same_data, check_versions, keep, left_out, locate, select_records
from hjepa_eval.results.files import find_galleries, record_files
from hjepa_eval.results.profile_files import find_profiles
from hjepa_eval.results.profiles import PROFILE_SUFFIX, Profile
from hjepa_eval.results.records import Record
from hjepa_eval.results.text import markdown_text

PAGE = "report.html"
# Endings that are no format's name.
_ENDINGS = {"": "table", "txt": "table", "tex": "latex", "htm": "html", "markdown": "md"}
# Formats for programs: what a reader must know stands beside them.
_WITHOUT_NOTES = ("csv", "json")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def choose_format(name: str | None, out: Path | None, known: Iterable[str]) -> str:
    """Return the format asked for, else the one of the file's ending, else `table`.

    Raises:
        UnknownNameError: there is no such format.
    """
    if name is None:
        ending = "" if out is None else out.suffix.removeprefix(".").lower()
        name = _ENDINGS.get(ending, ending)
    names = list(known)
    if name not in names:
        raise unknown("format", name, names)
    return name


def report(
    results: str | Path | Sequence[str | Path] = "results",
    *,
    format: str | None = None,
    out: str | Path | None = None,
    dataset: str | None = None,
    models: Sequence[str] = (),
    rank: bool = False,
    profile: bool = False,
    brief: bool = False,
    say: Callable[[str], None] | None = None,
) -> str:
    """Return a report of the records in files and folders, or write it and return the path.

    Args:
        results: one path or several.
        format: `table`, `md`, `csv`, `json`, `latex` or `html`; by `out`'s ending when not given.
        out: file to write.
        dataset: only records of this dataset.
        models: only these models beside the baselines.
        rank: one row per model and probe, the best first, each tested against it.
        profile: of the profiles there instead; where there are no records, profiles are reported anyway.
        brief: of a table only what fits a screen.
        say: told about each record and damaged file that is left out, where the report itself does not say so.

    Raises:
        ConfigError: profiles have no ranking.
        ResultError: a file cannot be read or written, or records do not belong together.
        UnknownNameError: a format, a dataset or a model has no such name.
    """
    paths = [Path(path) for path in ([results] if isinstance(results, str | Path) else results)]
    file = None if out is None else Path(out)
    if profile or profiles_alone(paths):
        if rank:
            raise ConfigError("profiles have no ranking; leave out --rank")
        chosen = choose_format(format, file, (*PROFILE_FORMATS, "html"))
        return _delivered(profile_report(paths, chosen, dataset=dataset, models=models), file)
    located = keep(locate(paths), dataset=dataset, models=models)
    records = [entry.record for entry in located]
    check_versions(records, [entry.path or entry.folder for entry in located])
    chosen = choose_format(format, file, (*FORMATS, "html"))
    if say is not None and chosen in _WITHOUT_NOTES:
        for note in left_out(records):
            say(note)
    if chosen == "html":
        check_same_data(records)
        return write_report(located, chosen, file, paths, say=say)
    if rank:
        return _delivered(RANK_FORMATS[chosen](located), file)
    if brief and chosen == "table":
        return _delivered(brief_table(records, more="costs, tests and notes: --verbose"), file)
    return write_report(located, chosen, file)


def write_report(
    located: Sequence[Located],
    chosen: str,
    out: Path | None,
    paths: Sequence[Path] = (),
    *,
    images: bool = True,
    say: Callable[[str], None] | None = None,
) -> str:
    """Return a report of a format as text, or write it and return its path.

    Args:
        located: the records.
        chosen: the format, `html` or one of `FORMATS`.
        out: file to write.
        paths: files and folders in which galleries and profiles for the page may lie.
        images: show the galleries of these records, if there are any.
        say: told about each damaged file, which is left out of the page.

    Raises:
        ResultError: it cannot be made or not be written.
    """
    records = [entry.record for entry in located]
    if chosen != "html":
        return _delivered(FORMATS[chosen](records), out)

    def damaged(error: ResultError) -> None:
        if say is not None:
            say(f"left out of the page: {error}")

    galleries = find_galleries(paths, records, damaged=damaged) if paths and images else []
    for entry in located:
        if entry.record.predictions is not None:
            try:
                _ = entry.samples
            except ResultError as error:
                damaged(error)
    profiles = find_profiles(paths, damaged=damaged)
    if out is None:
        from hjepa_eval.report.page.page import build_page

        return build_page(located, galleries, profiles=profiles)
    from hjepa_eval.report.page.page import write_page

    return str(write_page(located, galleries, out, profiles=profiles))


def _delivered(text: str, out: Path | None) -> str:
    """Return a text, or write it and return the path.

    A table is drawn for stdout, which may be a terminal with colours; a file is none.
    """
    return text if out is None else str(write_output(out, _COLOURS.sub("", text)))


def write_folder(
    records: Sequence[Record],
    folder: Path,
    *,
    results: Path | None = None,
    images: bool = True,
    say: Callable[[str], None] | None = None,
) -> list[Path]:
    """Write `report.html`, `report.md` and `levels.png` of one evaluation into a folder and return their paths.

    Args:
        records: of the evaluation.
        folder: where the files go, whatever else lies there.
        results: where the records and their galleries lie; the same folder when not given.
        images: show the records' galleries on the page.
        say: told about each damaged file, which is left out of the page.

    Raises:
        ResultError: a file cannot be written; what was written before stays.
    """
    from hjepa_eval.report.figures.levels import write_plot

    source = results or folder
    picture = write_plot(select_records(records), folder / "levels.png")
    written = [write_output(folder / "report.md", markdown_report(records)), picture]
    located = [Located(record, source) for record in records]
    page = write_report(located, "html", folder / PAGE, [source], images=images, say=say)
    return [Path(page), *written]


def markdown_report(records: Sequence[Record]) -> str:
    """Return `report.md`: the table, the picture beside it, and how both were made."""
    from hjepa_eval.report.figures.levels import describe_plot
    from hjepa_eval.report.formats.markdown import fenced, markdown
    from hjepa_eval.report.tables.table import build_table

    selection, first = select_records(records), records[0]
    made = first.provenance
    versions = ", ".join(f"{name} {number}" for name, number in made.versions.items())
    how = f"seed {made.seed}, {first.extraction.precision} on {made.device}; {versions}"
    text = f"# What each level knows\n\n{markdown(selection)}\n"
    text += f"![{markdown_text(describe_plot(build_table(selection)))}](levels.png)\n\n"
    text += f"Made by\n\n{fenced(made.command)}\n\n{markdown_text(how)}.\n\n"
    return text + "".join(f"- {markdown_text(line)}\n" for line in _sources(records))


def _sources(records: Sequence[Record]) -> list[str]:
    lines = []
    for record in records:
        images = record.extraction.forward_images
        how = f"{images:,} images went through the encoder" if images else "features from the cache, no forward pass"
        lines.append(f"{record.model.name}: {how}")
    return list(dict.fromkeys(lines))


def profiles_alone(paths: Sequence[Path]) -> bool:
    """Return whether files and folders hold profiles and no records.

    Raises:
        ResultError: a profile cannot be read.
    """
    if not find_profiles(paths):
        return False
    try:
        return not [file for file in record_files(paths) if not file.name.endswith(PROFILE_SUFFIX)]
    except ResultError:
        return True


def profile_report(
    paths: Sequence[Path], chosen: str, *, dataset: str | None = None, models: Sequence[str] = ()
) -> str:
    """Return a report of the profiles in files and folders as text.

    Args:
        paths: files and folders.
        chosen: the format, `html` or one of `PROFILE_FORMATS`.
        dataset: only profiles on this dataset.
        models: only profiles of these.

    Raises:
        ResultError: there are none, one cannot be read, or a page would be of several datasets.
        UnknownNameError: a dataset or a model has no such name.
    """
    profiles = find_profiles(paths)
    if not profiles:
        raise ResultError(f"no profiles in {', '.join(map(str, paths))}; hjepa profile writes some")
    datasets = list(dict.fromkeys(profile.dataset.name for profile in profiles))
    names = list(dict.fromkeys(profile.model.name for profile in profiles))
    for kind, wanted, known in (("dataset", [dataset] if dataset else [], datasets), ("model", models, names)):
        for name in wanted:
            if name not in known:
                raise unknown(f"{kind} in these profiles", name, known)
    shown = [entry for entry in profiles if dataset in (None, entry.dataset.name)]
    shown = [entry for entry in shown if not models or entry.model.name in models]
    return _profile_page(shown) if chosen == "html" else PROFILE_FORMATS[chosen](shown)


def _profile_page(profiles: Sequence[Profile]) -> str:
    from hjepa_eval.report.page.page import build_page

    datasets = list(dict.fromkeys(profile.dataset.name for profile in profiles))
    if len(datasets) > 1:
        raise ResultError(f"a page cannot mix datasets: {first_few(datasets)}; name one with --dataset")
    return build_page((), (), profiles=profiles)
