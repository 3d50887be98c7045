"""Flips of one bit in everything the program has written and reads again."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from fault_families.ground import Fault, Ground, SilentNumber, Try, copied, counted, flip, refused, same_tree
from fault_families.kills import same_run


def flips(ground: Ground, draw: random.Random, share: float) -> Iterator[Try]:
    """One bit of one file, then the command that reads it: a refusal, or the very same numbers."""
    kinds: dict[str, tuple[int, Callable[[Ground, Path, random.Random], str]]] = {
        "bits of shards": (20, _shard),
        "bits of manifests": (20, _manifest),
        "bits of fitted k-means": (10, _kmeans),
        "bits of memos of fingerprints": (20, _fingerprints),
        "bits of memos of encoders, costs": (20, _encoders),
        "bits of predictions": (15, _predictions),
        "bits of galleries": (15, _galleries),
        "bits of records": (30, _records),
        "bits of RUN/encoder.safetensors": (20, _encoder),
        "bits of RUN/config.json, summary.json": (10, _run_files),
        "bits of checkpoints": (10, _checkpoints),
        "bits of exports": (10, _export),
        "bits of fine-tuned weights": (10, _tuned),
    }
    for what, (number, act) in kinds.items():
        for place in counted(number, share):
            seed = draw.random()

            def one(scratch: Path, act: Callable[..., str] = act, seed: float = seed) -> str:
                return act(ground, scratch, random.Random(seed))

            yield Try(what, f"number {place}", one)


def _probe(ground: Ground, scratch: Path, model: str, where: str, *, named: str | None = None) -> str:
    """Run kNN in the scratch folder; return how it held, with the place of the flip in what failed."""
    words = ("knn", "--model", model, "--dataset", ground.dataset, "--out", "out")
    try:
        return ground.judge(ground.do(*words, folder=scratch), scratch / "out", named or model)
    except SilentNumber as fault:
        raise SilentNumber(f"{where}: {fault}") from None
    except Fault as fault:
        raise Fault(f"{where}: {fault}") from None


def _cached(ground: Ground, scratch: Path, pattern: str, draw: random.Random, model: str) -> str:
    """Flip a bit of a file of the cache and run kNN of a model."""
    assert ground.numbers
    cache = copied(ground.cache, scratch / "cache")
    where = flip(draw.choice(sorted(cache.glob(pattern))), draw)
    if model != "run":
        return _probe(ground, scratch, model, where)
    # Memos know files by their inodes: the run itself is asked, and the records go elsewhere.
    words = ("knn", "--model", "run", "--dataset", ground.dataset, "--out", scratch / "out")
    try:
        return ground.judge(ground.do(*words, cache=cache), scratch / "out", model)
    except SilentNumber as fault:
        raise SilentNumber(f"{where}: {fault}") from None
    except Fault as fault:
        raise Fault(f"{where}: {fault}") from None


def _shard(ground: Ground, scratch: Path, draw: random.Random) -> str:
    return _cached(ground, scratch, "features/*/*/*/*.safetensors", draw, draw.choice(("run", "pixels:8")))


def _manifest(ground: Ground, scratch: Path, draw: random.Random) -> str:
    return _cached(ground, scratch, "features/*/*/*/manifest.json", draw, draw.choice(("run", "pixels:8")))


def _kmeans(ground: Ground, scratch: Path, draw: random.Random) -> str:
    return _cached(ground, scratch, "encoders/*.safetensors", draw, "kmeans")


def _fingerprints(ground: Ground, scratch: Path, draw: random.Random) -> str:
    return _cached(ground, scratch, "fingerprints/*.json", draw, "pixels:8")


def _encoders(ground: Ground, scratch: Path, draw: random.Random) -> str:
    return _cached(ground, scratch, "encoders/*.json", draw, draw.choice(("run", "kmeans")))


def _table(ground: Ground, folder: Path) -> bytes:
    """Return what `report --format json` says of the records in a folder, or nothing where it refuses."""
    ended = ground.do("report", "results", "--format", "json", folder=folder)
    return b"" if refused(ended) else ended.out


def _records(ground: Ground, scratch: Path, draw: random.Random) -> str:
    results = copied(ground.results, scratch / "results")
    where = flip(draw.choice(sorted(results.glob("*.json"))), draw)
    table = _table(ground, scratch)
    if table and table != _table(ground, ground.folder):
        raise SilentNumber(f"{where}: report says something else")
    return "same numbers" if table else "refused"


def _page(ground: Ground, scratch: Path, source: Path, pattern: str, draw: random.Random) -> str:
    """Flip a bit of a file beside records and draw the page of them: the same page, or what is left out is said."""
    undisturbed = ground.folder / f"page-{source.name}"
    if not undisturbed.is_dir():
        copied(source, undisturbed / "records")
        refused(ground.do("report", "records", "--format", "html", "--out", "page.html", folder=undisturbed))
    records = copied(source, scratch / "records")
    where = flip(draw.choice(sorted(records.glob(pattern))), draw)
    ended = ground.do("report", "records", "--format", "html", "--out", "page.html", folder=scratch)
    if refused(ended):
        return "refused"
    if (scratch / "page.html").read_bytes() == (undisturbed / "page.html").read_bytes():
        return "same page"
    if where.split()[0] not in ended.said:
        raise SilentNumber(f"{where}: another page, and stderr says {ended.err.decode()[-200:]!r}")
    return "left out and said"


def _predictions(ground: Ground, scratch: Path, draw: random.Random) -> str:
    return _page(ground, scratch, ground.results, "*.npz", draw)


def _galleries(ground: Ground, scratch: Path, draw: random.Random) -> str:
    return _page(ground, scratch, ground.evaluation, "*.gallery.safetensors", draw)


def _encoder(ground: Ground, scratch: Path, draw: random.Random) -> str:
    assert ground.numbers
    run = copied(ground.run, scratch / "run")
    return _probe(ground, scratch, "run", flip(run / "encoder.safetensors", draw, high=draw.random() < 0.7))


def _run_files(ground: Ground, scratch: Path, draw: random.Random) -> str:
    assert ground.numbers
    run = copied(ground.run, scratch / "run")
    return _probe(ground, scratch, "run", flip(run / draw.choice(("config.json", "summary.json")), draw))


def _checkpoints(ground: Ground, scratch: Path, draw: random.Random) -> str:
    run = copied(ground.stopped_run, scratch / "run")
    file = draw.choice(sorted((run / "checkpoints").glob("*/*")))
    where = flip(file, draw)
    if refused(ground.do("pretrain", "--resume", "run", folder=scratch)):
        return "refused"
    try:
        same_run(scratch / "run", ground.run)
    except SilentNumber as fault:
        # The damaged file itself may stay where nothing reads it.
        if re.findall(r"'(\S+)'", str(fault)) != [str(file.relative_to(run))]:
            raise SilentNumber(f"{where}: {fault}") from None
    return "same bytes"


def _beside(ground: Ground, name: str, *words: str) -> Path:
    """Return a folder that holds what an undisturbed command wrote as `name`, and its kNN records in `out`."""
    folder = ground.folder / f"made-{name}"
    if not folder.is_dir():
        copied(ground.run, folder / "run")
        if refused(ended := ground.do(*words, folder=folder)):
            raise RuntimeError(f"undisturbed {words}: {ended.said[-500:]}")
        model = f"timm:local-dir:{name}" if name == "exported" else name
        if refused(ended := ground.do("knn", "--model", model, "--dataset", ground.dataset, folder=folder)):
            raise RuntimeError(f"undisturbed kNN of {model}: {ended.said[-500:]}")
    return folder


def _weights(ground: Ground, scratch: Path, made: Path, name: str, model: str, draw: random.Random) -> str:
    """Flip a bit of the weights in a folder and run kNN: refused, or the very same features."""
    target = copied(made / name, scratch / name)
    file = target / ("model.safetensors" if name == "exported" else "encoder.safetensors")
    where = flip(file, draw, high=draw.random() < 0.7)
    ended = ground.do("knn", "--model", model, "--dataset", ground.dataset, folder=scratch)
    if refused(ended):
        return "refused"
    try:
        same_tree(scratch / "cache/features", made / "cache/features")
    except Fault:
        raise SilentNumber(f"{where}: other features, exit 0") from None
    return "same features"


def _export(ground: Ground, scratch: Path, draw: random.Random) -> str:
    made = _beside(ground, "exported", "export", "run", "--out", "exported")
    return _weights(ground, scratch, made, "exported", "timm:local-dir:exported", draw)


def _tuned(ground: Ground, scratch: Path, draw: random.Random) -> str:
    words = ("finetune", "--model", "run", "--dataset", ground.dataset, "--epochs", "1", "--run", "tuned")
    return _weights(ground, scratch, _beside(ground, "tuned", *words), "tuned", "tuned", draw)
