"""Hostile pickles, safetensors, JSON, YAML, index files: never executed, one line, bounded time and memory."""

from __future__ import annotations

import json
import pickle
import random
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fault_families.ground import Fault, Ground, Try, copied, counted, refused

PATIENCE = 20.0
MARK = "executed"
DEEP = "[" * 200_000
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 11)
)
JSONS: dict[str, str] = {
    "deep": DEEP,
    "deep objects": '{"a":' * 100_000,
    "empty": "",
    "empty object": "{}",
    "list": "[]",
    "null": "null",
    "number": "1e999",
    "digits": "9" * 6000,
    "NaN": '{"schema_version": NaN}',
    "cut": '{"schema_version": 4, "probe": "kn',
    "UTF-16": "\ufeff{}",
    "NUL": "\x00" * 64,
    "long string": json.dumps({"run": "x" * 10**7}),
    "escape": json.dumps({"model": "\x1b[31m\u202ex"}),
}
YAMLS: dict[str, str] = {
    "deep": DEEP,
    "nested": "".join("  " * n + "a:\n" for n in range(2000)),
    "bomb": BOMB,
    "small bomb": "\n".join(BOMB.splitlines()[:7]),
    "digits": f"train: {{seed: {'9' * 5000}}}",
    "no date": "train: {seed: 2001-13-45}",
    "object": "train: !!python/object/apply:os.system ['touch executed']",
    "module": "!!python/module:os",
    "tag": "!x y",
    "NUL": "a: \x00",
    "colon": "a: b: c",
    "list": "[1, 2]",
    "text": "just words",
    "infinite": "train: {epochs: .inf}",
    "merge": "<<: [1, 2]",
    "self": "a: &a [*a]",
    "long key": f"{'k' * 100_000}: 1",
    "empty": "",
}


class Marker:
    """An object whose unpickling leaves a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (eval, (f"open({MARK!r}, 'w').close()",))


def _zipped(content: bytes) -> Callable[[Path], None]:
    def write(file: Path) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("archive/data.pkl", content)
            archive.writestr("archive/version", "3")

    return write


def _written(content: bytes) -> Callable[[Path], None]:
    return lambda file: file.write_bytes(content) and None


def _header(text: str, size: int | None = None) -> Callable[[Path], None]:
    content = text.encode()
    return _written(struct.pack("<Q", len(content) if size is None else size) + content)


CHECKPOINTS: dict[str, Callable[[Path], None]] = {
    "pickle, protocol 0": _written(pickle.dumps(Marker(), protocol=0)),
    "pickle, protocol 5": _written(pickle.dumps({"state_dict": Marker()}, protocol=5)),
    "pickle in a zip": _zipped(pickle.dumps({"model": Marker()}, protocol=2)),
    "empty": _written(b""),
    "NUL": _written(b"\x00" * 4096),
    "text": _written(b"hello\n" * 100),
    "zip without data": lambda file: zipfile.ZipFile(file, "w").close(),
    "header of 2^62": _header("{}", 1 << 62),
    "header of 90 MB": lambda file: _header('{"a":' + '"x"' * 30_000_000)(file),
    "header deep": _header(DEEP),
    "header cut": _header('{"w": {"dtype": "F32", "shape": [2'),
    "offsets beyond": _header('{"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}'),
    "shape of 2^60": _header('{"w": {"dtype": "F32", "shape": [1152921504606846976], "data_offsets": [0, 0]}}'),
    "escape in a name": _header('{"\\u001b[31mw": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}'),
}


def hostile_files(ground: Ground, draw: random.Random, share: float) -> Iterator[Try]:
    """Every hostile content in every file that takes it."""
    tries = [
        *(_checkpoint_try(ground, name, ending) for name in CHECKPOINTS for ending in ("safetensors", "pth")),
        *(_json_try(ground, name, target) for name in JSONS for target in JSON_TARGETS),
        *(_yaml_try(ground, name, command) for name in YAMLS for command in ("extract", "pretrain")),
        *(_index_try(ground, target) for target in ("/etc/passwd", "../outside.bin", "weights.bin", "\x1b[31m")),
        *(_depth_try(ground, depth, kind) for depth in (10**7, 10**12, -1) for kind in ("run", "timm")),
    ]
    yield from draw.sample(tries, len(counted(len(tries), share)))


def _ended(ground: Ground, scratch: Path, *words: object) -> str:
    """Run a command on something hostile: it must refuse, in bounded time, and execute nothing."""
    ended = ground.do(*words, folder=scratch, patience=PATIENCE)
    if (scratch / MARK).exists():
        raise Fault("code in a file was executed")
    return "refused" if refused(ended) else "taken"


def _knn(ground: Ground, scratch: Path, model: str) -> str:
    return _ended(ground, scratch, "knn", "--model", model, "--dataset", ground.dataset)


def _checkpoint_try(ground: Ground, name: str, ending: str) -> Try:
    def act(scratch: Path) -> str:
        CHECKPOINTS[name](scratch / f"weights.{ending}")
        if _knn(ground, scratch, f"timm:vit_tiny_patch16_224?checkpoint=weights.{ending}") == "taken":
            raise Fault("the file was taken as weights")
        return "refused"

    return Try("checkpoints", f"{name}.{ending}", act)


JSON_TARGETS = ("record", "config.json", "summary.json", "state.json", "tar sample", "hf config", "timm config")


def _json_try(ground: Ground, name: str, target: str) -> Try:
    content = JSONS[name].encode("utf-16" if name == "UTF-16" else "utf-8")

    def act(scratch: Path) -> str:
        if target == "record":
            (scratch / "results").mkdir()
            (scratch / "results/x__y__knn__0.json").write_bytes(content)
            return _ended(ground, scratch, "report", "results")
        if target in ("config.json", "summary.json"):
            copied(ground.run, scratch / "run")
            (scratch / "run" / target).write_bytes(content)
            _ended(ground, scratch, "pretrain", "--resume", "run")
            return _knn(ground, scratch, "run")
        if target == "state.json":
            run = copied(ground.stopped_run, scratch / "run")
            next((run / "checkpoints").glob("*/state.json")).write_bytes(content)
            return _ended(ground, scratch, "pretrain", "--resume", "run")
        if target == "tar sample":
            return _tar_sample(ground, scratch, content)
        folder = scratch / "model"
        folder.mkdir()
        (folder / "config.json").write_bytes(content)
        return _knn(ground, scratch, f"hf:{folder}" if target == "hf config" else f"timm:local-dir:{folder}")

    return Try("JSON", f"{name} as {target}", act)


def _tar_sample(ground: Ground, scratch: Path, content: bytes) -> str:
    import io
    import tarfile

    image = next((ground.folder / "images/train").glob("*/*.png")).read_bytes()
    for split in ("train", "test"):
        with tarfile.open(scratch / f"{split}.tar", "w") as tar:
            for name, data in (("a.png", image), ("a.json", content), ("b.png", image), ("b.json", b'{"label": 1}')):
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    return _ended(ground, scratch, "knn", "--model", "pixels:8", "--dataset", "wds:{split}.tar")


def _yaml_try(ground: Ground, name: str, command: str) -> Try:
    def act(scratch: Path) -> str:
        (scratch / "settings.yaml").write_text(YAMLS[name])
        if command == "extract":
            words: tuple[object, ...] = ("extract", "--model", "pixels:8", "--dataset", ground.dataset)
        else:
            words = ("pretrain", "--out", "run", "--set", "train.epochs=1", "--set", "data.max_samples=32")
        if name == "empty" and command == "pretrain":
            words = ("pretrain", "--show-settings")
        outcome = _ended(ground, scratch, *words, "--config", "settings.yaml")
        if outcome == "taken" and name != "empty":
            raise Fault("the settings were taken")
        return outcome

    return Try("YAML", f"{name}, {command}", act)


def _index_try(ground: Ground, target: str) -> Try:
    def act(scratch: Path) -> str:
        folder = scratch / "model"
        folder.mkdir()
        config = {"model_type": "vit", "architectures": ["ViTModel"], "hidden_size": 32, "num_hidden_layers": 1}
        config |= {"num_attention_heads": 2, "intermediate_size": 32, "image_size": 32, "patch_size": 16}
        (folder / "config.json").write_text(json.dumps(config))
        index = {"metadata": {}, "weight_map": {"embeddings.cls_token": target}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        (folder / "weights.bin").write_bytes(pickle.dumps(Marker()))
        (scratch / "outside.bin").write_bytes(pickle.dumps(Marker()))
        if _knn(ground, scratch, f"hf:{folder}") == "taken":
            raise Fault("the index was taken")
        return "refused"

    return Try("index files", ascii(target), act)


def _depth_try(ground: Ground, depth: int, kind: str) -> Try:
    def act(scratch: Path) -> str:
        if kind == "run":
            run = copied(ground.run, scratch / "run")
            content = json.loads((run / "config.json").read_text())
            content["encoder"]["arguments"]["depth"] = depth
            (run / "summary.json").unlink()  # It has the sum of the settings as they were.
            (run / "config.json").write_text(json.dumps(content))
            outcome = _knn(ground, scratch, "run")
        else:
            (scratch / "model").mkdir()
            config = {"architecture": "vit_tiny_patch16_224", "model_args": {"depth": depth}}
            (scratch / "model/config.json").write_text(json.dumps(config))
            outcome = _knn(ground, scratch, f"timm:local-dir:{scratch / 'model'}")
        if outcome == "taken":
            raise Fault("the size was taken")
        return outcome

    return Try("sizes that are believed", f"{kind}, depth {depth}", act)
