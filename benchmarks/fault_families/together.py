"""Second processes: two extracts, two pretrainings of one folder, removal and cleaning while others work."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from fault_families.ground import Fault, Ground, Try, copied, counted, numbers, refused, same, same_tree
from fault_families.kills import same_run
from fault_families.program import Ended


def second_processes(ground: Ground, draw: random.Random, share: float) -> Iterator[Try]:
    """Two processes at once, the second begun at a seeded moment: right files, and no message but wait or in use."""
    acts: dict[str, tuple[int, Callable[[Ground, Path, float], str]]] = {
        "two extracts": (8, _extracts),
        "shorter beside longer extract": (8, _shorter),
        "rm, gc during extract": (9, _removal),
        "rm during a probe": (6, _removal_while_probing),
        "two evals": (3, _evals),
        "two pretrainings": (6, _pretrainings),
        "resume beside pretraining": (4, _resume),
        "two finetunings": (4, _finetunings),
        "an image changes during extract": (8, _changed),
    }
    for what, (number, act) in acts.items():
        for place in counted(number, share):
            moment = draw.random()

            def one(scratch: Path, act: Callable[..., str] = act, moment: float = moment) -> str:
                return act(ground, scratch, moment)

            yield Try(what, f"number {place}, at {moment:.2f}", one)


def _extract(ground: Ground) -> tuple[object, ...]:
    return ("extract", "--model", "run", "--dataset", ground.dataset)


def _undisturbed(ground: Ground) -> Path:
    """Return the stores of the run alone."""
    folder = ground.folder / "alone"
    if not folder.is_dir():
        ground.cache  # noqa: B018 - its seconds
        copied(ground.run, folder / "run")
        refused(ground.do(*_extract(ground), folder=folder))
    return folder / "cache/features"


def _pair(
    ground: Ground, scratch: Path, seconds: float, first: tuple[object, ...], second: tuple[object, ...]
) -> list[Ended]:
    """Run two commands, the second begun `seconds` after the first."""
    process = ground.begin(*first, folder=scratch)
    time.sleep(seconds)
    other = ground.do(*second, folder=scratch)
    return [process.wait(), other]


def _told(ended: Ended, *words: str) -> bool:
    """Tell whether a run was refused because another works there; raise where it was refused otherwise."""
    if not refused(ended):
        return False
    if not any(word in ended.said for word in words):
        raise Fault(f"refused otherwise: {ended.err.decode()[-300:]}")
    return True


def _extracts(ground: Ground, scratch: Path, moment: float) -> str:
    expected = _undisturbed(ground)
    copied(ground.run, scratch / "run")
    for ended in _pair(ground, scratch, moment * ground.seconds_of_extract, _extract(ground), _extract(ground)):
        if refused(ended):
            raise Fault(f"refused: {ended.err.decode()[-300:]}")
    same_tree(scratch / "cache/features", expected)
    return "same bytes"


def _shorter(ground: Ground, scratch: Path, moment: float) -> str:
    expected = _undisturbed(ground)
    copied(ground.run, scratch / "run")
    short = (*_extract(ground), "--max-samples", "70")
    told = False
    for ended in _pair(ground, scratch, moment * ground.seconds_of_extract, _extract(ground), short):
        told |= _told(ended, "in use", "wait", "again")
    ended = ground.do(*_extract(ground), folder=scratch)
    if refused(ended):
        raise Fault(f"the rerun was refused: {ended.err.decode()[-300:]}")
    held = {path.name for path in (scratch / "cache/features").rglob("*.safetensors")}
    if not {path.name for path in expected.rglob("*.safetensors")} <= held:
        raise Fault("shards are missing")
    return "told to wait" if told else "same bytes"


def _removal(ground: Ground, scratch: Path, moment: float) -> str:
    expected = _undisturbed(ground)
    copied(ground.run, scratch / "run")
    removal = [("cache", "rm", "all"), ("cache", "gc", "--max-size", "1kB"), ("cache", "gc", "--older-than", "0s")]
    words = (*removal[int(moment * 1000) % 3],)
    first, second = _pair(ground, scratch, moment * ground.seconds_of_extract * 1.2, _extract(ground), words)
    if refused(first):
        raise Fault(f"extract was refused: {first.err.decode()[-300:]}")
    _told(second, "in use", "wait", "no store", "nothing")
    if refused(ended := ground.do(*_extract(ground), folder=scratch)):
        raise Fault(f"the rerun was refused: {ended.err.decode()[-300:]}")
    same_tree(scratch / "cache/features", expected)
    return "same bytes"


def _removal_while_probing(ground: Ground, scratch: Path, moment: float) -> str:
    assert ground.numbers
    for source in (ground.run, ground.cache):
        copied(source, scratch / source.name)
    probe = ("linear", "--model", "run", "--dataset", ground.dataset, "--out", "out")
    first, second = _pair(ground, scratch, moment, probe, ("cache", "rm", "all"))
    _told(second, "in use", "wait", "no store", "nothing")
    if _told(first, "in use", "removed", "again"):
        return "told to run again"
    return ground.judge(first, scratch / "out", "run", "linear")


def _evals(ground: Ground, scratch: Path, moment: float) -> str:
    expected = ground.evaluation
    for source in (ground.run, ground.cache):
        copied(source, scratch / source.name)
    words = tuple(ground.eval_words)
    for ended in _pair(ground, scratch, moment * ground.seconds_of_eval, words, words):
        if refused(ended):
            raise Fault(f"refused: {ended.err.decode()[-300:]}")
    for file in expected.glob("*__*.json"):
        same(numbers(scratch / "evaluation" / file.name), numbers(file))
    return "same numbers"


def _pretrainings(ground: Ground, scratch: Path, moment: float) -> str:
    expected = ground.run
    words = ("pretrain", "--config", "settings.yaml", "--out", "run")
    shutil.copy(ground.folder / "settings.yaml", scratch)
    delay = 0.0 if moment < 0.5 else moment * ground.seconds_of_run
    ended = _pair(ground, scratch, delay, words, words)
    told = [_told(run, "in use", "another process", "holds a run") for run in ended]
    if not any(told):
        raise Fault("both trained into one folder")
    same_run(scratch / "run", expected)
    return "same bytes, the second refused"


def _resume(ground: Ground, scratch: Path, moment: float) -> str:
    run = copied(ground.stopped_run, scratch / "run")
    words = ("pretrain", "--resume", "run")
    first, second = _pair(ground, scratch, moment * ground.seconds_of_run / 2, words, words)
    _told(first, "in use", "another process", "is finished", "finished")
    _told(second, "in use", "another process", "is finished", "finished")
    same_run(run, ground.run)
    return "same bytes"


def _finetunings(ground: Ground, scratch: Path, moment: float) -> str:
    for source in (ground.run, ground.cache):
        copied(source, scratch / source.name)
    words = ("finetune", "--model", "run", "--dataset", ground.dataset, "--epochs", "1", "--run", "tuned")
    ended = _pair(ground, scratch, moment * 0.5, words, words)
    told = [_told(run, "in use", "another process", "holds", "exists", "--resume") for run in ended]
    if not any(told):
        raise Fault("both trained into one folder")
    return "the second refused"


def _changed(ground: Ground, scratch: Path, moment: float) -> str:
    expected = _undisturbed(ground)
    images = copied(ground.folder / "images", scratch / "images")
    copied(ground.run, scratch / "run")
    words = ("extract", "--model", "run", "--dataset", f"folder:{images}")
    process = ground.begin(*words, folder=scratch)
    time.sleep(moment * ground.seconds_of_extract)
    file = images / "train/c3/039.png"
    content, other = file.read_bytes(), (images / "train/c1/000.png").read_bytes()
    file.write_bytes(other)
    ended = process.wait()
    file.write_bytes(content)
    told = refused(ended)
    if refused(again := ground.do(*words, folder=scratch)):
        raise Fault(f"the rerun was refused: {again.err.decode()[-300:]}")
    right = {path.name: path.parent for path in expected.rglob("*.safetensors") if "train" in path.parts}
    key = next(iter(right.values())).name
    ours = next((scratch / "cache/features").rglob(f"{key}*"), None)
    if ours is not None:
        same_tree(ours, next(iter(right.values())))
    return "refused, the rerun is right" if told else "the image that was there"
