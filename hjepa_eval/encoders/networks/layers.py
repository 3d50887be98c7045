"""Layers of any module: their names, what they return, and how that is read as tokens `[B, T, D]`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import isqrt
from typing import Any

from torch import Tensor, nn

from hjepa_eval.errors import EncoderError, UnknownNameError, first_few

# What the module itself returns, where no layer is called so.
OUTPUT = "output"
_SPELLED = re.compile(r"^(?P<layer>[^\[\]]+?)(?:\[(?P<key>[^\[\]]+)\])?$")
# What Hugging Face's models call the last tokens among what they return.
_USUAL_KEY = "last_hidden_state"
# Class and register tokens before the cells: DINOv2 with registers has five.
_MOST_PREFIX = 16


@dataclass(frozen=True)
class Site:
    """What a level reads: the output of the layer `layer` (empty: of the whole module), or its part `key`."""

    spelled: str
    layer: str
    key: str | None = None


@dataclass
class Seen:
    """What a layer returned at its last call, how often it was called, and whether its values were changed later."""

    output: Any = None
    calls: int = 0
    versions: list[tuple[Tensor, int]] = field(default_factory=list)


@dataclass(frozen=True)
class Form:
    """How an output becomes tokens.

    Attributes:
        kind: `vector`, `tokens`, `maps` (channels first) or `maps, channels last`.
        dim: width of a token.
        grid: cells as (rows, columns).
        prefix: tokens before the cells.
    """

    kind: str
    dim: int
    grid: tuple[int, int]
    prefix: int = 0

    def tokens(self, output: Tensor) -> Tensor:
        """Return `[B, T, D]` for an output of this form."""
        if self.kind == "vector":
            return output.unsqueeze(1)
        if self.kind == "maps":
            return output.flatten(2).transpose(1, 2)
        return output.flatten(1, 2) if self.kind == "maps, channels last" else output


def locate(model: nn.Module, spelled: str) -> Site:
    """Return the layer that `blocks.3`, `blocks.3[1]`, `head[features]` or `output` names.

    Raises:
        UnknownNameError: there is none; the nearest names are listed.
    """
    names = [name for name, _ in model.named_modules() if name]
    match = _SPELLED.match(spelled.strip())
    layer = match["layer"] if match else spelled
    if match and layer in names:
        return Site(spelled, layer, match["key"])
    if match and layer == OUTPUT:
        return Site(spelled, "", match["key"])
    near = difflib.get_close_matches(layer, names, n=5, cutoff=0.5) or names[:5]
    raise UnknownNameError(
        f"{type(model).__name__} has no layer {spelled!r}; the nearest names are {', '.join(near)} "
        f"(of {len(names)}; --layers of 'hjepa models' lists all)"
    )


@contextmanager
def watch(model: nn.Module, layers: Iterable[str], *, clone: Iterable[str] = ()) -> Iterator[dict[str, Seen]]:
    """Give what the named layers return while the block runs.

    Args:
        model: any module.
        layers: names of its modules; the empty name is the module itself.
        clone: those whose output is copied, since a later operation changes it in place.
    """
    seen = {layer: Seen() for layer in layers}
    copied = set(clone)

    def hook(layer: str) -> Callable[..., None]:
        def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
            entry = seen[layer]
            entry.calls += 1
            tensors = tensors_of(output)
            entry.output = {key: tensor.clone() for key, tensor in tensors.items()} if layer in copied else tensors
            if not any(tensor.is_inference() for tensor in tensors.values()):
                entry.versions = [(tensor, tensor._version) for tensor in tensors.values()]

        return keep

    modules = dict(model.named_modules(remove_duplicate=False))
    handles = [modules[layer].register_forward_hook(hook(layer)) for layer in seen]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def tensors_of(output: Any) -> dict[str, Tensor]:
    """Return the floating-point tensors in what a layer returned, by key or place; a lone tensor by the empty key."""
    if isinstance(output, Tensor):
        return {"": output} if output.is_floating_point() else {}
    if isinstance(output, Mapping):
        items: Iterable[tuple[Any, Any]] = output.items()
    elif isinstance(output, list | tuple):
        items = enumerate(output)
    else:
        return {}
    return {str(key): value for key, value in items if isinstance(value, Tensor) and value.is_floating_point()}


def pick(tensors: Mapping[str, Tensor], site: Site) -> Tensor:
    """Return the tensor that a site reads: its key's, the only one, the first of a tuple, or `last_hidden_state`.

    Raises:
        EncoderError: there is none, or it is not clear which; the message lists all with their shapes.
    """
    if site.key is not None and site.key in tensors:
        return tensors[site.key]
    listed = first_few([f"{key or 'a tensor'} {list(tensor.shape)}" for key, tensor in tensors.items()], 8)
    if site.key is not None:
        raise EncoderError(
            f"layer {site.spelled}: no {site.key!r} in what it returns; there is {listed or 'no tensor'}"
        )
    if not tensors:
        raise EncoderError(f"layer {site.spelled} returns no floating-point tensor, so no level can be read there")
    if len(tensors) == 1 or "0" in tensors:
        return next(iter(tensors.values()))
    if _USUAL_KEY in tensors:
        return tensors[_USUAL_KEY]
    raise EncoderError(
        f"layer {site.spelled} returns several tensors: {listed}; say which, such as "
        f"{site.spelled}[{next(iter(tensors))}]"
    )


def check_batch(two: Tensor, three: Tensor, *, site: Site) -> None:
    """Check that the first axis counts images, from outputs for two and for three of them.

    Raises:
        EncoderError: it does not, and the message says which does.
    """
    shapes = f"gives {list(two.shape)} for 2 images and {list(three.shape)} for 3"
    if two.ndim != three.ndim:
        raise EncoderError(f"layer {site.spelled} {shapes}; a level needs one shape per image")
    growing = [axis for axis in range(two.ndim) if two.shape[axis] != three.shape[axis]]
    if growing == [0] and (two.shape[0], three.shape[0]) == (2, 3):
        return
    if growing == [0] and two.shape[0] * 3 == three.shape[0] * 2:
        raise EncoderError(
            f"layer {site.spelled} {shapes}, so {two.shape[0] // 2} rows per image, as in windows; name a layer whose "
            "first axis is the batch"
        )
    if len(growing) == 1 and growing[0] > 0:
        raise EncoderError(
            f"layer {site.spelled} {shapes}: its batch is axis {growing[0]}, not the first; build it with "
            "batch_first=True, or name a layer after the axes are turned"
        )
    raise EncoderError(f"layer {site.spelled} {shapes}; a level needs a first axis that counts images")


def read_form(
    output: Tensor, module: nn.Module, *, site: Site, image: tuple[int, int], grids: Sequence[tuple[int, int]]
) -> Form:
    """Return how an output, checked by `check_batch`, is read.

    Args:
        output: of the layer.
        module: the layer.
        site: says its name.
        image: rows and columns of the input in pixels.
        grids: rows and columns of the convolutions' maps in this network, as a ViT's patch embedding has.

    Raises:
        EncoderError: it is neither vectors, tokens nor maps.
    """
    shape = tuple(output.shape)
    if len(shape) == 2:
        return Form("vector", shape[1], (1, 1))
    if len(shape) == 3:
        grid, prefix = _token_grid(shape[1], grids)
        return Form("tokens", shape[2], grid, prefix)
    if len(shape) == 4:
        last, first = (shape[1], shape[2]), (shape[2], shape[3])
        fits = [_like(grid, image) for grid in (first, last)]
        has_convolution = any(isinstance(part, nn.Conv2d | nn.BatchNorm2d) for part in module.modules())
        dense = any(isinstance(part, nn.Linear | nn.LayerNorm) for part in module.modules())
        channels_last = fits[1] if fits[0] != fits[1] else dense and not has_convolution
        return Form("maps, channels last", shape[3], last) if channels_last else Form("maps", shape[1], first)
    raise EncoderError(
        f"layer {site.spelled} gives {list(shape)}; a level reads vectors [B, D], tokens [B, T, D] or maps [B, C, H, W]"
    )


def _like(grid: tuple[int, int], image: tuple[int, int]) -> bool:
    """Tell whether a grid has about the image's ratio of sides, as maps of any stride have, with or without borders."""
    return abs(grid[0] * image[1] - grid[1] * image[0]) <= max(image)


def _token_grid(count: int, grids: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], int]:
    """Return rows and columns of `count` tokens, and how many come before the cells."""
    fitting = [(count - rows * columns, (rows, columns)) for rows, columns in grids]
    near = [(prefix, grid) for prefix, grid in fitting if 0 <= prefix <= min(_MOST_PREFIX, count - 1)]
    if near:
        prefix, grid = min(near)
        return grid, prefix
    for prefix in (0, 1, 5):  # none, a class token, and four registers beside it
        side = isqrt(max(0, count - prefix))
        if side > 1 and side**2 == count - prefix:
            return (side, side), prefix
    return (1, count), 0


def list_layers(model: nn.Module, images: Tensor) -> list[tuple[str, str, str]]:
    """Return name, class and what it gives for a batch of images, `[B, ...]`, of every layer that is called."""
    names = [name for name, _ in model.named_modules()]
    with watch(model, names) as seen:
        model(images)
    rows = []
    for name, module in model.named_modules():
        tensors = seen[name].output or {}
        given = ", ".join(
            f"{key and key + ' '}[B{''.join(f', {side}' for side in t.shape[1:])}]" for key, t in tensors.items()
        )
        shape = given or ("no tensor" if seen[name].calls else "is not called")
        rows.append((name or OUTPUT, type(module).__name__, shape))
    return [*rows[1:], rows[0]]
