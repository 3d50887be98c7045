"""Where the images of a store come from: one compressed file beside its shards, in the dataset's order."""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Sequence
from pathlib import Path

from hjepa_eval.errors import StoreError
from hjepa_eval.features.fingerprint import escape_surrogates, parse_json, write_atomically
from hjepa_eval.features.manifest import NAMES, NamesFile
from hjepa_eval.features.store import FeatureStore

# Of paths, the fastest setting leaves a tenth more than the best, which takes ten times as long.
_LEVEL = 1


def write_names(folder: Path, names: Sequence[str]) -> NamesFile:
    """Write the names of a store's images, a JSON list in gzip, and return what the manifest says of the file.

    A million paths of 30 characters take about 2 seconds and 5 MB.

    Args:
        folder: the store's.
        names: of every image asked for, in the dataset's order, those that were skipped too.

    Raises:
        OSError: the folder cannot be written.
    """
    text = escape_surrogates(json.dumps(list(names), ensure_ascii=False, separators=(",", ":")))
    content = gzip.compress(text.encode(), _LEVEL, mtime=0)  # Without the time: equal names make equal bytes.
    write_atomically(folder / NAMES, content)
    return NamesFile(NAMES, len(content), hashlib.sha256(content).hexdigest())


def read_names(store: FeatureStore | Path | str, *, limit: int | None = None) -> list[str] | None:
    """Return where each image of a store comes from, rows as in its features; None where a store of before has none.

    A name is the file's path from the dataset's root, such as `train/cat/1.png`, `<shard>/<member>`, or
    `<split>/<row>` of a source without files.

    Args:
        store: a store, or its folder.
        limit: only images before this place of the dataset's order.

    Raises:
        StoreError: the store is not complete, or its names cannot be read or are not those of the manifest.
    """
    opened = store if isinstance(store, FeatureStore) else FeatureStore(Path(store), verify=False)
    about = opened.manifest.names
    if about is None:
        return None
    path = opened.folder / about.file
    try:
        content = path.read_bytes()
        whole = hashlib.sha256(content).hexdigest() == about.sha256
        names = parse_json(gzip.decompress(content)) if whole else None
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise StoreError(f"{path} cannot be read: {error}; run hjepa extract again, it writes it anew") from None
    index = opened.index(limit=limit)
    if not isinstance(names, list) or len(names) != opened.manifest.num_images:
        raise StoreError(f"{path} is damaged: it is not what the manifest says; run hjepa extract again")
    return [str(names[place]) for place in index.tolist()]
