"""The cache: a folder of feature stores, found by what they hold."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hjepa_eval.errors import StoreError, first_few
from hjepa_eval.features.claims import filling, finishing, is_free
from hjepa_eval.features.fingerprint import hash_json
from hjepa_eval.features.manifest import MANIFEST, Manifest, read_manifest

KEY_CHARACTERS = 6


@dataclass(frozen=True)
class CachedStore:
    """A store's folder, its manifest when that can be read, and the reason when not."""

    folder: Path
    manifest: Manifest | None
    problem: str = ""


def default_cache_dir() -> Path:
    """Return the cache folder that `HJEPA_CACHE` names, or `~/.cache/hjepa`."""
    return Path(os.environ.get("HJEPA_CACHE") or Path.home() / ".cache" / "hjepa").expanduser()


def store_folder(cache_dir: Path, manifest: Manifest) -> Path:
    """Return the folder of the store that `manifest` describes: `features/<dataset>/<split>/<key>`."""
    dataset = re.sub(r"[^A-Za-z0-9._-]+", "-", manifest.dataset).strip("-.") or hash_json(manifest.dataset)[:16]
    return cache_dir / "features" / dataset / manifest.split / manifest.key[:16]


def has_store_of_before(folder: Path, manifest: Manifest) -> bool:
    """Return whether beside a store's folder lies one of the same images and encoder from before its key had the crop.

    Then the long side of images was rounded where it is truncated now, so its features are not these.
    """

    def without_transform(identity: dict[str, Any]) -> str:
        encoder = {name: value for name, value in identity.get("encoder", {}).items() if name != "transform"}
        return hash_json({**identity, "encoder": encoder})

    for other in folder.parent.glob("*/manifest.json"):
        try:
            identity = read_manifest(other.parent).identity
        except StoreError:
            continue  # A damaged neighbour says nothing.
        old = "crop" not in identity.get("encoder", {}).get("transform", {"crop": ""})
        if old and without_transform(identity) == without_transform(manifest.identity):
            return True
    return False


def memo_dir(cache_dir: Path) -> Path:
    """Return the folder of remembered dataset fingerprints."""
    return cache_dir / "fingerprints"


def encoders_dir(cache_dir: Path) -> Path:
    """Return the folder of what is remembered of encoders, and of encoders that were fitted."""
    return cache_dir / "encoders"


def list_stores(cache_dir: Path) -> Iterator[CachedStore]:
    """Yield every store below the cache folder, those without a readable manifest too."""
    for folder in sorted((cache_dir / "features").glob("*/*/*")):
        if not folder.is_dir():
            continue  # The lock of a store lies beside it.
        try:
            yield CachedStore(folder, read_manifest(folder))
        except StoreError as error:
            yield CachedStore(folder, None, str(error))


def find_stores(cache_dir: Path, wanted: str) -> list[CachedStore]:
    """Return the stores that `wanted` names: `all`, the folder name of a dataset, or the beginning of one store's key.

    Args:
        cache_dir: where stores lie.
        wanted: at least 6 characters when it is a key, so that no store is met by accident.

    Raises:
        StoreError: none fits, or the key fits several.
    """
    stores = list(list_stores(cache_dir))
    if wanted == "all":
        return stores
    of_dataset = [store for store in stores if store.folder.parent.parent.name == wanted]
    if of_dataset:
        return of_dataset
    found = [store for store in stores if len(wanted) >= KEY_CHARACTERS and _key(store).startswith(wanted)]
    if not found:
        raise StoreError(
            f"no store {wanted!r} in {cache_dir}; give all, the name of a dataset, or at least {KEY_CHARACTERS} "
            "characters of a key; hjepa cache ls shows them"
        )
    if len(found) > 1:
        places = first_few([store.folder.relative_to(cache_dir / "features") for store in found])
        raise StoreError(f"{wanted!r} fits {len(found)} stores: {places}; give more of the key, or a dataset")
    return found


def _key(store: CachedStore) -> str:
    """Return the key that a store is found by: as in results when it is in its place, else its folder's name."""
    name = store.folder.name
    return store.manifest.key if store.manifest is not None and store.manifest.key.startswith(name) else name


def find_manifest(cache_dir: Path, wanted: str) -> Manifest:
    """Return the manifest of the one store that `wanted` names: its folder, its dataset, or the beginning of its key.

    Raises:
        StoreError: none fits, several do, or its manifest cannot be read.
    """
    if (Path(wanted) / MANIFEST).is_file():
        return read_manifest(Path(wanted))
    found = find_stores(cache_dir, wanted)
    if len(found) > 1:
        keys = first_few([f"{store.folder.name} ({store.folder.parent.name})" for store in found])
        raise StoreError(f"{wanted!r} fits {len(found)} stores: {keys}; give the key of one")
    return read_manifest(found[0].folder)


def is_filling(folder: Path) -> bool:
    """Tell whether another process is filling the store in `folder`; earlier versions hold a lock beside it."""
    beside = Path(f"{folder}.lock")
    return filling(folder) or (beside.exists() and not is_free(beside))


def stored_bytes(folder: Path) -> int:
    """Return the size of everything in a store's folder."""
    size = 0
    for file in folder.rglob("*"):
        with contextlib.suppress(OSError):  # Temporary files of a process that is filling it come and go.
            size += file.stat().st_size if file.is_file() else 0
    return size


def remove_store(store: CachedStore) -> int:
    """Delete a store and return the bytes that it held.

    Raises:
        StoreError: another process is filling it, or it cannot be deleted.
    """
    try:
        with finishing(store.folder):  # Nobody comes in meanwhile: `claims.stay` waits.
            if is_filling(store.folder):
                raise StoreError(f"{store.folder} is in use by another hjepa; wait until it ends, or stop it")
            size = stored_bytes(store.folder)
            # The manifest goes first, so that a half-deleted store is no store.
            (store.folder / MANIFEST).unlink(missing_ok=True)
            shutil.rmtree(store.folder)
            Path(f"{store.folder}.lock").unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"cannot remove {store.folder}: {error.strerror}; check its permissions") from None
    return size
