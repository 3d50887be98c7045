"""`hjepa cache`: list, check, compare and remove feature stores, by sizes and ages as written (`50GB`, `30d`)."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hjepa_eval.cli.console import guarded, print_json
from hjepa_eval.errors import ConfigError, HjepaError, StoreError
from hjepa_eval.features.imported import is_imported

if TYPE_CHECKING:
    from hjepa_eval.features.cache import CachedStore

_BYTES = {"": 1, "b": 1, **{f"{letter}b": 1000 ** (place + 1) for place, letter in enumerate("kmgt")}}
_BYTES |= {f"{letter}ib": 1024 ** (place + 1) for place, letter in enumerate("kmgt")}
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)")


def read_size(option: str, text: str) -> int:
    """Return the bytes that `50GB`, `1.5 GiB` or `800` name.

    Raises:
        ConfigError: it is no size.
    """
    return int(_read(option, text, _BYTES, "a size such as 500MB, 50GB or 1.5TB"))


def read_duration(option: str, text: str) -> float:
    """Return the seconds that `90m`, `12h`, `30d` or `2w` name.

    Raises:
        ConfigError: it is no duration.
    """
    return _read(option, text, _SECONDS, "a duration such as 12h, 30d or 2w")


def _read(option: str, text: str, units: dict[str, int], expected: str) -> float:
    found = _QUANTITY.fullmatch(text.strip().lower())
    if found is None or found[2] not in units:
        raise ConfigError(f"{option} is {text!r}, expected {expected}")
    return float(found[1]) * units[found[2]]


def show_size(count: int) -> str:
    """Return `823 B`, `4.1 MB` or `12.3 GB`."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.95:
            return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


CacheDir = Annotated[
    Path | None, typer.Option("--cache-dir", envvar="HJEPA_CACHE", help="folder of stores; else ~/.cache/hjepa")
]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON on stdout instead of a table")]


def _folder(cache_dir: Path | None) -> Path:
    from hjepa_eval.features.cache import default_cache_dir

    return cache_dir or default_cache_dir()


def _describe(store: CachedStore) -> dict[str, object]:
    manifest = store.manifest
    if manifest is None:
        return {"key": store.folder.name, "folder": str(store.folder), "problem": store.problem}
    return {
        "key": store.folder.name,
        "encoder": manifest.encoder,
        "dataset": manifest.dataset,
        "split": manifest.split,
        "readout": manifest.readout,
        "precision": manifest.identity.get("precision"),
        "storage": manifest.storage,
        "compiled": bool(manifest.identity.get("compiled")),
        "view": manifest.identity.get("view", {}).get("number"),
        "images": manifest.rows,
        "levels": [level.index for level in manifest.levels],
        "bytes": manifest.bytes,
        "folder": str(store.folder),
    }


def list_(cache_dir: CacheDir = None, as_json: AsJson = False) -> None:
    """List the stores."""
    from hjepa_eval.features.cache import list_stores

    rows = [_describe(store) for store in list_stores(_folder(cache_dir))]
    if as_json:
        print_json(rows)
        return
    for row in rows:
        if "problem" in row:
            print(f"{row['key']}  INCOMPLETE  {row['problem']}")
        else:
            size = show_size(int(str(row["bytes"])))
            view = "" if row["view"] is None else f"view {row['view']}, "
            how = f"{row['precision']}{' compiled' if row['compiled'] else ''}, stored as {row['storage']}"
            print(
                f"{row['key']}  {row['dataset']} {row['split']}  {row['encoder']}  {view}{row['readout']}, "
                f"{how}, {row['images']:,} images, {len(row['levels'])} levels, {size}"  # type: ignore[arg-type]
            )
    if not rows:
        print(f"no stores in {_folder(cache_dir)}; hjepa extract makes one")


def verify(
    store: Annotated[str, typer.Argument(help="a dataset, 6 or more characters of a key, or all")] = "all",
    dataset: Annotated[str | None, typer.Option(help="compare labels with this one, such as folder:PATH")] = None,
    root: Annotated[Path | None, typer.Option(envvar="HJEPA_DATA", help="folder that holds the datasets")] = None,
    cache_dir: CacheDir = None,
) -> None:
    """Check every byte against the manifests, and labels against the data sets that are here; name what is wrong."""
    from hjepa_eval.features.cache import find_stores
    from hjepa_eval.features.manifest import MANIFEST
    from hjepa_eval.features.store import verify_store

    problems = []
    stores = find_stores(_folder(cache_dir), store)
    for item in stores:
        if not (item.folder / MANIFEST).exists():
            print(f"{item.folder.name}  unfinished: the next extraction of the same features goes on with it")
            continue
        wrong = verify_store(item.folder)
        compared = "" if wrong else _labels(item, dataset, root, _folder(cache_dir), wrong)
        problems += wrong
        print(f"{item.folder.name}  {f'ok{compared}' if not wrong else '; '.join(wrong)}")
    if not stores:
        print(f"no stores in {_folder(cache_dir)}; hjepa extract makes one")
        return
    if problems:
        raise StoreError(f"{len(problems)} problems; hjepa extract as before repairs only what is damaged")
    print("all finished stores are whole")


def _labels(item: CachedStore, dataset: str | None, root: Path | None, cache: Path, wrong: list[str]) -> str:
    """Compare a store's labels with those of its data set, where that is here; return a word where it is not.

    Args:
        item: a whole store.
        dataset: the one to compare with; the store's own by its name when not given.
        root: folder that holds the data sets.
        cache: the cache folder.
        wrong: gets what is wrong.
    """
    from hjepa_eval.datasets import load_dataset
    from hjepa_eval.extraction.extract import check_labels
    from hjepa_eval.features.cache import memo_dir
    from hjepa_eval.features.store import FeatureStore

    manifest = item.manifest
    if manifest is None or is_imported(manifest.encoder):
        return ""
    here = "labels not compared: name the data set with --dataset"
    try:
        images = load_dataset(dataset or manifest.dataset, manifest.split, root=root, memo=memo_dir(cache))
        if images.fingerprint != manifest.identity["dataset"]["fingerprint"]:
            return f", {here}" if dataset is None else f", labels not compared: {dataset} is another data set"
    except HjepaError:
        return f", {here}"
    try:
        check_labels(FeatureStore(item.folder, verify=False), images, manifest.num_images)
    except StoreError as error:
        wrong.append(str(error))
    return ""


def remove(
    store: Annotated[str, typer.Argument(help="a dataset, 6 or more characters of a key, or all")],
    cache_dir: CacheDir = None,
) -> None:
    """Remove stores."""
    from hjepa_eval.features.cache import find_stores, remove_store

    kept = []
    for item in find_stores(_folder(cache_dir), store):
        try:
            print(f"removed {item.folder.name}, {show_size(remove_store(item))}")
        except StoreError as error:
            kept.append(str(error))
    if kept:
        raise StoreError("; ".join(kept))


def collect(
    older_than: Annotated[
        str | None, typer.Option(help="also stores that were last opened longer ago: 12h, 30d, 2w")
    ] = None,
    max_size: Annotated[
        str | None, typer.Option(help="also the least recently used stores, until the rest fits: 50GB")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="remove nothing, only show")] = False,
    cache_dir: CacheDir = None,
    as_json: AsJson = False,
) -> None:
    """Remove what no one can use: unfinished stores, and what killed processes left.

    A store that another process is filling always stays.
    """
    from hjepa_eval.features.garbage import collect_garbage

    seconds = None if older_than is None else read_duration("--older-than", older_than)
    size = None if max_size is None else read_size("--max-size", max_size)
    folder = _folder(cache_dir)
    removed = []
    for item in collect_garbage(folder, unused_seconds=seconds, max_bytes=size, dry_run=dry_run):
        removed.append(item)
        if not as_json:
            verb = "would remove" if dry_run else "removed"
            path = item.path.relative_to(folder) if item.path.is_relative_to(folder) else item.path
            print(f"{verb} {path}, {show_size(item.bytes)}: {item.reason}")
    total = sum(item.bytes for item in removed)
    if as_json:
        entries = [{"path": str(item.path), "bytes": item.bytes, "reason": item.reason} for item in removed]
        print_json({"dry_run": dry_run, "bytes": total, "removed": entries})
    elif removed:
        print(f"{len(removed)} {'thing' if len(removed) == 1 else 'things'}, {show_size(total)}")
    else:
        print(f"nothing to remove in {folder}")


def differ(
    first: Annotated[str, typer.Argument(help="6 or more characters of a key, or the folder of a store")],
    second: Annotated[str, typer.Argument(help="the store to compare with")],
    cache_dir: CacheDir = None,
    as_json: AsJson = False,
) -> None:
    """Say in what two stores differ: why the second is not the first."""
    from hjepa_eval.features.cache import find_manifest
    from hjepa_eval.features.fingerprint import differences

    old, new = (find_manifest(_folder(cache_dir), wanted) for wanted in (first, second))
    found = differences(old.identity, new.identity)
    if as_json:
        print_json({"first": old.key, "second": new.key, "same": not found, "differences": found})
        return
    for line in found:
        print(line)
    if not found:
        counts = f"{old.rows:,}" if old.rows == new.rows else f"{old.rows:,} and {new.rows:,}"
        print(f"the features are the same, of {counts} images")


def print_folder(cache_dir: CacheDir = None) -> None:
    """Print the cache folder."""
    print(_folder(cache_dir))


# name -> what it does
_COMMANDS: dict[str, Callable[..., None]] = {
    "ls": list_,
    "verify": verify,
    "rm": remove,
    "gc": collect,
    "diff": differ,
    "path": print_folder,
}


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    cache = typer.Typer(no_args_is_help=True, help="List, check, compare and remove feature stores.")
    app.add_typer(cache, name="cache")
    for name, command in _COMMANDS.items():
        cache.command(name)(guarded(command))
