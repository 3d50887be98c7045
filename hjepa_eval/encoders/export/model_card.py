"""The README of an exported encoder: what it is, how it was trained, what was measured, how to load it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch

from hjepa_eval.encoders.export.graphs import FILES, PREPROCESSING
from hjepa_eval.encoders.kinds.timm_network import ViTEncoder
from hjepa_eval.encoders.readouts import Level
from hjepa_eval.encoders.run_facts import RunFacts
from hjepa_eval.results.provenance import __version__
from hjepa_eval.results.text import markdown_text

FILE = "README.md"
FOLDER = "path/to/this/folder"
NOT_MEASURED = "not measured"


def model_card(encoder: ViTEncoder, facts: RunFacts, *, title: str, kind: str, branch: str) -> str:
    """Return the card as Markdown.

    Args:
        encoder: what is exported.
        facts: of the run.
        title: name of the run, for people.
        kind: `timm`, `torch` or `onnx`.
        branch: `target` or `context`.
    """
    whose = {
        "target": "target encoder (the moving average of the trained one)",
        "context": "context encoder (the trained one itself)",
    }
    dtype = str(next(iter(encoder.parameters())).dtype).removeprefix("torch.")
    numbers = sum(parameter.numel() for parameter in encoder.parameters())
    built_by = {key: value for key, value in encoder.settings["architecture"].items() if value != ""}
    architecture = ", ".join([built_by.pop("timm"), *(f"{key} {value}" for key, value in built_by.items())])
    parts = [
        _front_matter(kind),
        f"# {markdown_text(title)}",
        f"The {whose[branch]} of an H-JEPA pretraining run, exported by hjepa {markdown_text(__version__)}. "
        f"It has no classifier. {numbers:,} parameters in {dtype}; {markdown_text(architecture)}.",
        "## Levels",
        _levels(encoder.levels, facts.knn if branch == "target" else ()),
        _knn_note(facts, branch),
        "## Use",
        _input(encoder),
        *(_use_timm(encoder) if kind == "timm" else _use_graph(encoder, kind, dtype)),
        "`sha256sum -c SHA256SUMS` tells whether the files are whole; hjepa looks by itself.",
        "## Training",
        _training(facts),
        "All settings of the run:",
        f"```json\n{json.dumps(_public(facts.settings), indent=1)}\n```",
        "## Licence",
        "Not stated: who publishes these weights decides, with the terms of the images in mind.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(kind: str) -> str:
    library = {"timm": "timm", "torch": "pytorch", "onnx": "onnx"}[kind]
    return f"---\nlibrary_name: {library}\ntags:\n- image-feature-extraction\n- self-supervised\n- h-jepa\n---"


def _levels(levels: tuple[Level, ...], knn: tuple[float, ...]) -> str:
    rows = ["| level | reads | cells | width | kNN during training |", "| --- | --- | --- | ---: | ---: |"]
    for level in levels:
        measured = f"{100 * knn[level.index]:.1f} %" if knn else NOT_MEASURED
        rows.append(
            f"| {level.index} | {markdown_text(level.name)} | {level.grid[0]} x {level.grid[1]} | {level.dim} "
            f"| {measured} |"
        )
    return "\n".join(rows)


def _knn_note(facts: RunFacts, branch: str) -> str:
    if facts.knn and branch == "target":
        return (
            f"kNN is what the run's own diagnostics measured at {_step(facts)}, on images of the train split: "
            "it watches a training and is no test score. `hjepa eval` measures one."
        )
    return "Nothing was measured on this encoder by the run itself. `hjepa eval` measures it."


def _step(facts: RunFacts) -> str:
    return "the end" if facts.steps is None else f"step {facts.steps:,}"


def _input(encoder: ViTEncoder) -> str:
    transform = encoder.transform
    return (
        f"Images are RGB, short side resized to {transform.resize} pixels ({transform.interpolation}, antialiased), "
        f"middle {transform.size} x {transform.size} cropped, scaled to \\[0, 1\\], minus mean "
        f"{markdown_text(list(transform.mean))}, over std {markdown_text(list(transform.std))}."
    )


def _use_timm(encoder: ViTEncoder) -> list[str]:
    size, last = encoder.transform.size, max(encoder.taps)
    blocks = [tap - 1 for tap in encoder.taps]
    return [
        f"""```python
import timm
import torch

folder = "{FOLDER}"
model = timm.create_model(f"local-dir:{{folder}}", pretrained=True).eval()
prepare = timm.data.create_transform(**timm.data.resolve_data_config(model=model))  # takes a PIL image
images = torch.zeros(1, 3, {size}, {size})  # prepared
with torch.no_grad():
    vectors = model(images)  # [B, D], mean of the last block's cells
    tokens = model.forward_features(images)  # [B, prefix + cells, D]
    blocks = model.forward_intermediates(
        images, indices={sorted(set(blocks))}, norm=True, output_fmt="NLC", intermediates_only=True
    )
```""",
        f"`blocks` are what the levels read (the last of them block {last}), before pooling to cells. With hjepa the "
        "levels come pooled:",
        f"""```python
from hjepa_eval.encoders import load_encoder

encoder = load_encoder("timm:local-dir:{FOLDER}")
levels = encoder(images)  # one [B, prefix + cells, D] per level
```""",
        f"```sh\nhjepa eval --model timm:local-dir:{FOLDER} --dataset digits\n```",
    ]


def _use_graph(encoder: ViTEncoder, kind: str, dtype: str) -> list[str]:
    size = encoder.transform.size
    prefix = encoder.levels[0].prefix
    what = f"one `[B, {'prefix + ' if prefix else ''}cells, D]` per level, cells row by row"
    if kind == "torch":
        code = f"""import torch

folder = "{FOLDER}"
model = torch.export.load(f"{{folder}}/{FILES["torch"]}").module()
images = torch.zeros(1, 3, {size}, {size}, dtype=torch.{dtype})  # prepared; any batch size
with torch.no_grad():
    levels = model(images)"""
    else:
        code = f"""import numpy as np
import onnxruntime

folder = "{FOLDER}"
session = onnxruntime.InferenceSession(f"{{folder}}/{FILES["onnx"]}", providers=["CPUExecutionProvider"])
images = np.zeros((1, 3, {size}, {size}), np.{dtype})  # prepared; any batch size
levels = session.run(None, {{"images": images}})"""
    return [f"```python\n{code}\n```", f"`levels` is {what}. `{PREPROCESSING}` says the same for programs."]


def _public(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings without the folder of the images, which says something of a machine and nothing of the run."""
    return {
        name: {key: value for key, value in part.items() if key != "root"} if isinstance(part, dict) else part
        for name, part in settings.items()
    }


def _training(facts: RunFacts) -> str:
    data: Mapping[str, Any] = facts.dataset
    images = data.get("num_images")
    versions = ", ".join(f"{name} {value}" for name, value in facts.versions.items()) or "not stated"
    lines = [
        f"- data set: {markdown_text(data.get('name', 'not stated'))}"
        + (f", {images:,} images of its train split" if isinstance(images, int) else ""),
        f"- content of the data set: sha256 {markdown_text(data.get('fingerprint', 'not stated'))}",
        f"- steps: {'not stated' if facts.steps is None else f'{facts.steps:,}'}",
        f"- seconds of training: {'not stated' if facts.seconds is None else f'{facts.seconds:,.0f}'}",
        f"- versions: {markdown_text(versions)}",
        f"- exported with torch {markdown_text(torch.__version__)}",
    ]
    return "\n".join(lines)
