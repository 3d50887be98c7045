"""The encoder of a run for other programs: a folder that timm opens, a torch.export program, or ONNX."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from hjepa_eval.encoders.export.graphs import check_onnx, write_graph
from hjepa_eval.encoders.export.model_card import FILE, model_card
from hjepa_eval.encoders.kinds.run import is_run, load_run, weights_folder, write_sums
from hjepa_eval.encoders.kinds.timm_folder import write_timm
from hjepa_eval.encoders.kinds.timm_network import ViTEncoder
from hjepa_eval.encoders.run_facts import read_facts
from hjepa_eval.errors import CheckpointError, EncoderError, unknown

FORMATS = ("timm", "onnx", "torch")
DTYPES = {"fp32": torch.float32, "fp16": torch.float16}


def export_run(
    run: Path, folder: Path, *, kind: str = "timm", branch: str = "target", dtype: str = "fp32"
) -> list[Path]:
    """Write the encoder of a run or checkpoint to a new folder, whole or not at all, and return its files.

    Args:
        run: folder of a run, finished or not, or of one of its checkpoints.
        folder: must be absent or empty.
        kind: `timm` (weights and configuration), `onnx` or `torch` (a graph from images to all levels' tokens).
        branch: `target` or `context`.
        dtype: `fp32`, or `fp16` of weights and, in a graph, of images and tokens.

    Raises:
        UnknownNameError: there is no such format, branch or dtype.
        CheckpointError: there is no run, it has no weights, or they do not fit.
        EncoderError: the folder cannot be written or holds something, or ONNX cannot be written here.
    """
    if kind not in FORMATS:
        raise unknown("export format", kind, FORMATS)
    if dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    if not is_run(run):
        raise CheckpointError(
            f"{run} is no pretraining run and no checkpoint: it has no config.json; name the folder that "
            "'hjepa pretrain' wrote"
        )
    check_new(folder)
    if kind == "onnx":
        check_onnx()
    encoder = load_run(run, {"encoder": branch})
    if not isinstance(encoder, ViTEncoder):
        raise EncoderError(f"{run} is no ViT and cannot be exported; its stages are read with --model {run}")
    facts = read_facts(weights_folder(run))
    encoder = encoder.to(DTYPES[dtype])
    with new_folder(folder) as unfinished:
        if kind == "timm":
            write_timm(encoder, unfinished)
        else:
            write_graph(encoder, unfinished, kind=kind)
        card = model_card(encoder, facts, title=export_name(run), kind=kind, branch=branch)
        (unfinished / FILE).write_text(card, encoding="utf-8")
        write_sums(unfinished)
    return sorted(folder.iterdir())


def export_name(run: Path) -> str:
    """Return a run's name; that of a checkpoint has the run's before it."""
    place = run.resolve()
    return f"{place.parent.parent.name}-{place.name}" if place.parent.name == "checkpoints" else place.name


def check_new(folder: Path) -> None:
    """Check, before any work, that a folder is absent or empty.

    Raises:
        EncoderError: it is not, or it cannot be looked into.
    """
    try:
        if folder.exists() and next(folder.iterdir(), None) is not None:
            raise EncoderError(f"{folder} is not empty, and nothing is overwritten; name another folder with --out")
    except OSError as error:
        raise EncoderError(f"cannot write to {folder}: {error.strerror}; name another folder with --out") from None


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Give a folder beside `folder` that takes its name at the end, and is removed when anything goes wrong.

    Raises:
        EncoderError: it cannot be written.
    """
    unfinished = folder.parent / f".{secrets.token_hex(8)}.tmp"
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        unfinished.replace(folder)
    except OSError as error:
        raise EncoderError(
            f"cannot write {folder}: {error.strerror or error}; make room, or name another folder with --out"
        ) from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
