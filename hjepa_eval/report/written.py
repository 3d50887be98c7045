"""A report of records as text or as a file, in the format that its name says."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from hjepa_eval.errors import ResultError, first_few, unknown
from hjepa_eval.report.formats.named import FORMATS, write_output
from hjepa_eval.report.formats.profiles import PROFILE_FORMATS
from hjepa_eval.report.tables.model_pairs import Located
from hjepa_eval.report.tables.selection import check_versions, keep, locate
from hjepa_eval.results.files import find_galleries, record_files
from hjepa_eval.results.profile_files import find_profiles
from hjepa_eval.results.profiles import PROFILE_SUFFIX, Profile

# Endings that are no format's name.
_ENDINGS = {"": "table", "txt": "table", "tex": "latex", "htm": "html", "markdown": "md"}


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
    profile: bool = False,
) -> str:
    """Return a report of the records in files and folders, or write it and return the path.

    Args:
        results: one path or several.
        format: `table`, `md`, `csv`, `json`, `latex` or `html`; by `out`'s ending when not given.
        out: file to write.
        dataset: only records of this dataset.
        models: only these models beside the baselines.
        profile: of the profiles there instead; where there are no records, profiles are reported anyway.

    Raises:
        ResultError: a file cannot be read or written, or records do not belong together.
        UnknownNameError: a format, a dataset or a model has no such name.
    """
    paths = [Path(path) for path in ([results] if isinstance(results, str | Path) else results)]
    if profile or profiles_alone(paths):
        chosen = choose_format(format, None if out is None else Path(out), (*PROFILE_FORMATS, "html"))
        text = profile_report(paths, chosen, dataset=dataset, models=models)
        return text if out is None else str(write_output(Path(out), text))
    located = keep(locate(paths), dataset=dataset, models=models)
    check_versions([entry.record for entry in located], [entry.path or entry.folder for entry in located])
    chosen = choose_format(format, None if out is None else Path(out), (*FORMATS, "html"))
    return write_report(located, chosen, None if out is None else Path(out), paths)


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


def write_report(located: Sequence[Located], chosen: str, out: Path | None, paths: Sequence[Path] = ()) -> str:
    """Return a report of a format as text, or write it and return its path.

    Args:
        located: the records.
        chosen: the format, `html` or one of `FORMATS`.
        out: file to write.
        paths: files and folders in which galleries of the records may lie.

    Raises:
        ResultError: it cannot be made or not be written.
    """
    records = [entry.record for entry in located]
    if chosen == "html":
        from hjepa_eval.report.page.page import build_page

        galleries = find_galleries(paths, records, damaged=lambda error: None) if paths else []
        profiles = find_profiles(paths, damaged=lambda error: None)
        text = build_page(located, galleries, profiles=profiles)
    else:
        text = FORMATS[chosen](records)
    return text if out is None else str(write_output(out, text))
