"""`hjepa cache`: list, check and remove feature stores."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hjepa_eval.cli.console import guarded, print_json
from hjepa_eval.errors import StoreError

if TYPE_CHECKING:
    from hjepa_eval.features.cache import CachedStore

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
        "precision": manifest.identity["precision"],
        "view": manifest.identity.get("view", {}).get("number"),
        "images": manifest.rows,
        "levels": [level.index for level in manifest.levels],
        "bytes": manifest.bytes,
        "folder": str(store.folder),
    }


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    cache = typer.Typer(no_args_is_help=True, help="List, check and remove feature stores.")
    app.add_typer(cache, name="cache")

    @cache.command("ls")
    @guarded
    def ls(cache_dir: CacheDir = None, as_json: AsJson = False) -> None:
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
                size = int(str(row["bytes"])) / 1e6
                view = "" if row["view"] is None else f"view {row['view']}, "
                print(
                    f"{row['key']}  {row['dataset']} {row['split']}  {row['encoder']}  {view}{row['readout']}, "
                    f"{row['precision']}, {row['images']:,} images, {len(row['levels'])} levels, {size:.1f} MB"  # type: ignore[arg-type]
                )
        if not rows:
            print(f"no stores in {_folder(cache_dir)}; hjepa extract makes one")

    @cache.command("verify")
    @guarded
    def verify(
        store: Annotated[str, typer.Argument(help="a dataset, 6 or more characters of a key, or all")] = "all",
        cache_dir: CacheDir = None,
    ) -> None:
        """Check every byte against the manifests; name what is damaged."""
        from hjepa_eval.features.cache import find_stores
        from hjepa_eval.features.store import verify_store

        problems = []
        found = find_stores(_folder(cache_dir), store)
        for item in found:
            if not (item.folder / "manifest.json").exists():
                print(f"{item.folder.name}  unfinished: the next extraction of the same features goes on with it")
                continue
            wrong = verify_store(item.folder)
            problems += wrong
            print(f"{item.folder.name}  {'ok' if not wrong else '; '.join(wrong)}")
        if problems:
            raise StoreError(f"{len(problems)} problems; hjepa extract as before repairs only what is damaged")
        print("all finished stores are whole")

    @cache.command("rm")
    @guarded
    def rm(
        store: Annotated[str, typer.Argument(help="a dataset, 6 or more characters of a key, or all")],
        cache_dir: CacheDir = None,
    ) -> None:
        """Remove stores."""
        from hjepa_eval.features.cache import find_stores, remove_store

        for item in find_stores(_folder(cache_dir), store):
            print(f"removed {item.folder.name}, {remove_store(item) / 1e6:.1f} MB")

    @cache.command("path")
    @guarded
    def path(cache_dir: CacheDir = None) -> None:
        """Print the cache folder."""
        print(_folder(cache_dir))
