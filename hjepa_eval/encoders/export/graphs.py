"""An encoder as one graph without Python: torch.export's `.pt2` or ONNX, images in, the tokens of every level out."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hjepa_eval.encoders.protocol import Encoder
from hjepa_eval.errors import EncoderError

INPUT = "images"
FILES = {"torch": "model.pt2", "onnx": "model.onnx"}
PREPROCESSING = "preprocessing.json"
_ONNX_PACKAGES = ("onnx", "onnxscript")
# Of the example that is traced; 1 would make the batch a constant.
_EXAMPLE_BATCH = 2


class _Tokens(nn.Module):
    """Gives a tuple, as graphs have it."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.encoder(images))


def check_onnx() -> None:
    """Check that what writes ONNX is installed.

    Raises:
        EncoderError: it is not; the message names the extra.
    """
    absent = [name for name in _ONNX_PACKAGES if find_spec(name) is None]
    if absent:
        raise EncoderError(
            f"--format onnx needs {' and '.join(absent)}, which {'are' if len(absent) > 1 else 'is'} not installed; "
            "pip install 'hjepa[onnx]', or take --format torch"
        )


def write_graph(encoder: Encoder, folder: Path, *, kind: str) -> None:
    """Write the graph and the preprocessing that it expects.

    The graph takes normalised images `[B, 3, S, S]` of any batch size, in the dtype of the encoder's weights, and
    returns a tuple with one `[B, T_l, D]` per level: prefix tokens, then pooled cells row by row.

    Args:
        encoder: on the CPU.
        folder: that exists.
        kind: `torch` or `onnx`.

    Raises:
        EncoderError: ONNX is asked for and what writes it is not installed.
        OSError: the folder cannot be written.
    """
    dtype = next(iter(encoder.parameters())).dtype
    size = encoder.transform.size
    example = (torch.zeros(_EXAMPLE_BATCH, 3, size, size, dtype=dtype),)
    shapes = ({0: torch.export.Dim("batch", min=1, max=1 << 20)},)
    module = _Tokens(encoder).eval()
    if kind == "onnx":
        check_onnx()
        _onnx_program(module, example, shapes).save(folder / FILES["onnx"])
    else:
        with torch.no_grad():
            program = torch.export.export(module, example, dynamic_shapes=shapes)
        # Where each operation was written: paths of this machine, which are nobody's business.
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)
        torch.export.save(program, folder / FILES["torch"])
    text = json.dumps(preprocessing(encoder, dtype), indent=2) + "\n"
    (folder / PREPROCESSING).write_text(text, encoding="utf-8")


def _onnx_program(module: _Tokens, example: tuple[Tensor], shapes: Any) -> Any:
    names = [f"level_{level.index}" for level in module.encoder.levels]
    program: Any = torch.onnx.export(
        module, example, dynamo=True, verbose=False, input_names=[INPUT], output_names=names, dynamic_shapes=shapes
    )
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # As above: paths of this machine.
    return program


def preprocessing(encoder: Encoder, dtype: torch.dtype) -> dict[str, Any]:
    """Return what a program must do to an image before the graph, and what it gets back, as JSON values."""
    transform = encoder.transform
    return {
        "steps": [
            "RGB image",
            f"resize the short side to {transform.resize} pixels, {transform.interpolation}, antialiased",
            f"crop the middle {transform.size} x {transform.size}",
            "divide by 255, subtract mean, divide by std, per channel",
            "lay out as [batch, channel, row, column]",
        ],
        **asdict(transform),
        "input": {
            "name": INPUT,
            "dtype": str(dtype).removeprefix("torch."),
            "shape": ["batch", 3, transform.size, transform.size],
        },
        "outputs": [
            {
                "name": f"level_{level.index}",
                "reads": level.name,
                "shape": ["batch", level.tokens, level.dim],
                "prefix": level.prefix,
                "grid": list(level.grid),
            }
            for level in encoder.levels
        ],
    }
