"""The cache: a folder of feature stores, found by what they hold."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hjepa_eval.errors import StoreError
from hjepa_eval.features.fingerprint import hash_json
from hjepa_eval.features.manifest import Manifest, read_manifest


@dataclass(frozen=True)
class CachedStore:
    """A store's folder, its manifest when that can be read, and the reason when not."""

    folder: Path
    manifest: Manifest | None
    problem: str = ""


def default_cache_dir() -> Path:
    """Return the cache folder used when neither `--cache-dir` nor `HJEPA_CACHE` says another."""
    return Path.home() / ".cache" / "hjepa"


def store_folder(cache_dir: Path, manifest: Manifest) -> Path:
    """Return the folder of the store that `manifest` describes: `features/<dataset>/<split>/<key>`."""
    dataset = re.sub(r"[^A-Za-z0-9._-]+", "-", manifest.dataset).strip("-.") or hash_json(manifest.dataset)[:16]
    return cache_dir / "features" / dataset / manifest.split / manifest.key[:16]


def memo_dir(cache_dir: Path) -> Path:
    """Return the folder of remembered dataset fingerprints."""
    return cache_dir / "fingerprints"


def list_stores(cache_dir: Path) -> Iterator[CachedStore]:
    """Yield every store below the cache folder, those without a readable manifest too."""
    for folder in sorted((cache_dir / "features").glob("*/*/*/")):
        try:
            yield CachedStore(folder, read_manifest(folder))
        except StoreError as error:
            yield CachedStore(folder, None, str(error))


def find_stores(cache_dir: Path, wanted: str) -> list[CachedStore]:
    """Return the stores whose key starts with `wanted`, whose dataset is `wanted`, or all for `all`.

    Raises:
        StoreError: none fits.
    """
    stores = list(list_stores(cache_dir))
    if wanted == "all":
        return stores
    found = [s for s in stores if s.folder.name.startswith(wanted) or s.folder.parent.parent.name == wanted]
    if not found:
        raise StoreError(f"no store {wanted!r} in {cache_dir}; hjepa cache ls shows keys and datasets")
    return found


def remove_store(store: CachedStore) -> int:
    """Delete a store and return the bytes that it held."""
    # The manifest goes first, so that a half-deleted store is no store.
    size = sum(file.stat().st_size for file in store.folder.rglob("*") if file.is_file())
    (store.folder / "manifest.json").unlink(missing_ok=True)
    shutil.rmtree(store.folder)
    Path(f"{store.folder}.lock").unlink(missing_ok=True)
    return size
