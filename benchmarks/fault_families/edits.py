"""Edits of what the program wrote as JSON: records, states of checkpoints, summaries, memos of tar shards."""

from __future__ import annotations

import hashlib
import io
import json
import random
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fault_families.ground import Fault, Ground, SilentNumber, Try, copied, counted, numbers, refused, same
from fault_families.kills import same_run

NAN, INFINITE = float("nan"), float("inf")
SCORE = "levels.0.scores.0"
# Each is impossible, so it must be refused even under a checksum that fits it.
IMPOSSIBLE: tuple[tuple[str, Any], ...] = (
    *((f"{SCORE}.value", value) for value in (2.5, -3.0, NAN, INFINITE, 0.999)),
    *((f"{SCORE}.low", value) for value in (0.999, -0.5, NAN)),
    *((f"{SCORE}.high", value) for value in (0.0, 1.5)),
    *((f"{SCORE}.num_samples", value) for value in (-5, 5, 10**9)),
    (f"{SCORE}.values", [0.5, 0.6]),
    (f"{SCORE}.std", -1.0),
    ("levels.0.scores", []),
    ("levels.0.per_class", {"c0": [99, 20], "c1": [0, 20], "c2": [0, 20], "c3": [0, 20]}),
    ("levels.0.per_class", {"c0": [-99, -20]}),
    ("levels.0.level", 1),
    ("levels.0.level", -1),
    ("levels.0.width", 0),
    ("levels.0.name", None),
    ("levels.0.cost.gflop", -1.0),
    ("levels.0.cost.gflop", NAN),
    ("levels", []),
    ("levels", {}),
    ("comparisons.0.p_value", 7.0),
    ("comparisons.0.p_holm", -2.0),
    ("comparisons.0.difference", NAN),
    ("comparisons.0.first", 99),
    ("choices.0.value", 0.999),
    ("choices.0.level", 99),
    ("schema_version", -1),
    ("schema_version", True),
    ("schema_version", 10**6),
    ("provenance.created", "yesterday"),
    ("dataset.test_images", -1),
    ("predictions.file", "/etc/passwd"),
    ("predictions.file", "../../x.npz"),
    ("predictions.sha256", "abc"),
)
# Each is possible, so only the checksum knows.
POSSIBLE: tuple[tuple[str, Any], ...] = (
    (f"{SCORE}.low", 0.001),
    ("model.name", "another"),
    ("model.weights", "0" * 64),
    ("dataset.test_fingerprint", "1" * 64),
    ("dataset.name", "cifar10"),
    ("parameters", {"k": [21]}),
    ("provenance.command", "hjepa knn"),
    ("levels.0.cost.gflop", 1.19),
    ("extraction.readout", "max"),
    ("sha256", "0" * 64),
    ("unknown", 1),
)


def signed(content: dict[str, Any]) -> dict[str, Any]:
    """Return a record with the checksum that fits it, as one would who knows how it is made."""
    content = {name: value for name, value in content.items() if name != "sha256"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return {**content, "sha256": hashlib.sha256(text.encode()).hexdigest()}


def record_edits(ground: Ground, draw: random.Random, share: float) -> Iterator[Try]:
    """One field of one record changed; report, as table and as page, refuses it."""
    [source] = ground.results.glob("run__*__knn__*.json")
    edits = [(field, value, fits) for fits in (False, True) for field, value in IMPOSSIBLE]
    edits += [(field, value, False) for field, value in POSSIBLE]
    for field, value, fits in draw.sample(edits, len(counted(len(edits), share))):

        def act(scratch: Path, field: str = field, value: Any = value, fits: bool = fits) -> str:
            content = json.loads(source.read_text())
            *parents, last = field.split(".")
            node: Any = content
            for parent in parents:
                node = node[int(parent)] if isinstance(node, list) else node[parent]
            if isinstance(node, list):
                node[int(last)] = value
            else:
                node[last] = value
            results = copied(ground.results, scratch / "results")
            (results / source.name).write_text(json.dumps(signed(content) if fits else content))
            kind = draw.choice((("--format", "json"), ("--format", "html", "--out", "page.html"), ()))
            if not refused(ended := ground.do("report", "results", *kind, folder=scratch)):
                raise SilentNumber(f"{field} = {str(value)[:40]} is taken; {ended.err.decode()[-200:]!r}")
            return "refused"

        yield Try("records", f"{field} = {str(value)[:30]}, checksum that {'fits' if fits else 'does not fit'}", act)


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the paths of all numbers in a JSON value."""
    if isinstance(value, dict | list):
        for name, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _places(part, (*path, name))
    elif isinstance(value, int | float):
        yield path


def _edited(file: Path, draw: random.Random) -> str:
    """Change one number of a JSON file by one, or double it; return which."""
    content = json.loads(file.read_text())
    path = draw.choice(list(_places(content)))
    node = content
    for part in path[:-1]:
        node = node[part]
    old = node[path[-1]]
    node[path[-1]] = old + 1 if draw.random() < 0.5 else old * 2 + 3
    file.write_text(json.dumps(content))
    return f"{file.name} {'.'.join(map(str, path))}: {old} -> {node[path[-1]]}"


def other_edits(ground: Ground, draw: random.Random, share: float) -> Iterator[Try]:
    """One number of a state, summary, settings file or tar memo changed; refused, or the same numbers."""
    acts: dict[str, tuple[int, Callable[[Ground, Path, random.Random], str]]] = {
        "state.json": (16, _state),
        "settings of a run": (10, _settings),
        "summary.json": (10, _summary),
        "tar memo, no stores": (12, _tar_memo),
        "tar memo, with stores": (8, _tar_memo_with_stores),
    }
    for what, (number, act) in acts.items():
        for place in counted(number, share):
            seed = draw.random()

            def one(scratch: Path, act: Callable[..., str] = act, seed: float = seed) -> str:
                return act(ground, scratch, random.Random(seed))

            yield Try(what, f"number {place}", one)


def _state(ground: Ground, scratch: Path, draw: random.Random) -> str:
    run = copied(ground.stopped_run, scratch / "run")
    where = _edited(next((run / "checkpoints").glob("*/state.json")), draw)
    if refused(ground.do("pretrain", "--resume", "run", folder=scratch)):
        return "refused"
    try:
        same_run(run, ground.run)
    except SilentNumber as fault:
        raise SilentNumber(f"{where}: {fault}") from None
    return "same bytes"


def _settings(ground: Ground, scratch: Path, draw: random.Random) -> str:
    assert ground.numbers
    run = copied(ground.run, scratch / "run")
    where = _edited(run / "config.json", draw)
    return _probed(ground, scratch, where)


def _summary(ground: Ground, scratch: Path, draw: random.Random) -> str:
    assert ground.numbers
    run = copied(ground.run, scratch / "run")
    where = "summary.json emptied"
    if draw.random() < 0.5:
        (run / "summary.json").write_text(draw.choice(("", "{}", "[]", "null", "1", '"x"')))
    else:
        where = _edited(run / "summary.json", draw)
    refused(ground.do("pretrain", "--resume", "run", folder=scratch))
    return _probed(ground, scratch, where)


def _probed(ground: Ground, scratch: Path, where: str) -> str:
    ended = ground.do("knn", "--model", "run", "--dataset", ground.dataset, "--out", "out", folder=scratch)
    try:
        return ground.judge(ended, scratch / "out", "run")
    except SilentNumber as fault:
        raise SilentNumber(f"{where}: {fault}") from None
    except Fault as fault:
        raise Fault(f"{where}: {fault}") from None


def make_shards(images: Path, folder: Path) -> None:
    """Write class folders as tar shards in WebDataset's naming."""
    folder.mkdir()
    for split in ("train", "test"):
        with tarfile.open(folder / f"{split}-000.tar", "w") as tar:
            for number, file in enumerate(sorted((images / split).glob("*/*.png"))):
                label = str(int(file.parent.name[1:])).encode()
                for ending, content in (("png", file.read_bytes()), ("cls", label)):
                    entry = tarfile.TarInfo(f"{number:05}.{ending}")
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))


def _tar_memo(ground: Ground, scratch: Path, draw: random.Random, *, stores: bool = False) -> str:
    made = ground.folder / "tar"
    words = ("knn", "--model", "pixels:8", "--dataset", f"wds:{made / 'shards'}/{{split}}-000.tar")
    if not made.is_dir():
        made.mkdir()
        make_shards(ground.folder / "images", made / "shards")
        if refused(ended := ground.do(*words, folder=made)):
            raise RuntimeError(f"undisturbed tar shards: {ended.said[-500:]}")
    copied(made / "cache/fingerprints", scratch / "cache/fingerprints")
    if stores:
        copied(made / "cache/features", scratch / "cache/features")
    files = sorted((scratch / "cache/fingerprints").glob("*.json"))
    file = draw.choice(files)
    content = json.loads(file.read_text())
    lists = [name for name, value in content["answer"].items() if isinstance(value, list | str) and value]
    name = draw.choice(lists or list(content["answer"]))
    value = content["answer"][name]
    if isinstance(value, list):
        choice = draw.randrange(3)
        value = [*value[1:], value[0]] if choice == 0 else value[:-3] if choice == 1 else [10**15, *value[1:]]
    else:
        value = "x"
    content["answer"][name] = value
    file.write_text(json.dumps(content))
    ended = ground.do(*words, folder=scratch)
    if refused(ended):
        return "refused"
    [theirs], [ours] = ((folder / "results").glob("*.json") for folder in (made, scratch))
    try:
        same(numbers(ours), numbers(theirs))
    except SilentNumber as fault:
        raise SilentNumber(f"{name} in a memo: {fault}") from None
    shutil.rmtree(scratch / "cache")
    return "same numbers"


def _tar_memo_with_stores(ground: Ground, scratch: Path, draw: random.Random) -> str:
    return _tar_memo(ground, scratch, draw, stores=True)
