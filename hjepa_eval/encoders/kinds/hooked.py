"""Any `nn.Module` as an encoder: its named layers are the levels, read by forward hooks."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hjepa_eval.datasets.transform import Transform
from hjepa_eval.encoders.networks.layers import (
    OUTPUT,
    Form,
    Seen,
    check_batch,
    locate,
    pick,
    read_form,
    watch,
)
from hjepa_eval.encoders.networks.trial import hash_outputs, probe_images
from hjepa_eval.encoders.protocol import Encoder, Level
from hjepa_eval.errors import EncoderError, first_few

# Rows of a batch agree with those of another up to this share of the largest value; float32 gives 1e-6 or so.
_SAME = {torch.float32: 1e-3, torch.float64: 1e-3}
_CONSTANT = 1e-6


class HookedEncoder(Encoder):
    """A module whose layers are levels, in the order in which they are named."""

    model: nn.Module

    def __init__(
        self,
        model: nn.Module,
        name: str,
        *,
        layers: Sequence[str],
        transform: Transform,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """Wrap `model`, which evaluates from now on, and look at its layers on a few images of noise.

        Args:
            model: takes float images `[B, 3, H, W]`; on any device.
            name: how reports call it.
            layers: as `locate` reads them: `blocks.3`, `blocks.3[1]`, `head[features]`, `output`.
            transform: how images become its input.
            settings: what else tells it from other encoders.

        Raises:
            UnknownNameError: there is no such layer; the nearest names are listed.
            EncoderError: a layer is never called, or what it gives cannot be a level; the message says why.
        """
        super().__init__()
        if not layers:
            raise EncoderError(f"{name}: name at least one layer, such as layers={OUTPUT}")
        self.model = model.eval()
        self.name = name
        self.transform = transform
        self._sites = [locate(model, layer) for layer in layers]
        self._clone: set[str] = set()
        self._forms: list[Form] = []
        self._look()
        self.levels = tuple(
            Level(index, site.spelled, form.dim, form.grid, form.prefix)
            for index, (site, form) in enumerate(zip(self._sites, self._forms, strict=True))
        )
        self.prefix_names = ("class token",)
        self.settings = {
            "class": type(model).__qualname__,
            "layers": list(layers),
            **(settings or {}),
            "outputs": hash_outputs(self),
        }

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return one `[B, T, D]` per layer for images `[B, 3, H, W]`.

        Raises:
            EncoderError: a layer gives another shape than for the images that it was looked at with.
        """
        outputs = self._run(images)
        for site, form, output, level in zip(self._sites, self._forms, outputs, self.levels, strict=True):
            if form.tokens(output).shape[1:] != (level.tokens, level.dim):
                raise EncoderError(
                    f"{self.name}: layer {site.spelled} gives {list(output.shape)} for these images, not "
                    f"{level.tokens} tokens of {level.dim} as before; a level needs one shape for all images"
                )
        return [form.tokens(output) for form, output in zip(self._forms, outputs, strict=True)]

    def _run(self, images: Tensor) -> list[Tensor]:
        with watch(self.model, {site.layer for site in self._sites}, clone=self._clone) as seen:
            self.model(images.to(_dtype(self.model, images.dtype)))
        return [pick(seen[site.layer].output or {}, site) for site in self._sites]

    @torch.no_grad()
    def _look(self) -> None:
        """Find each layer's form, and check that what it gives belongs to its image alone."""
        three = probe_images(self, count=3)
        convolutions = [name for name, part in self.model.named_modules() if isinstance(part, nn.Conv2d)]
        layers = {site.layer for site in self._sites}
        with watch(self.model, {*layers, *convolutions}) as seen:
            self.model(three)
        self._check_calls(seen)
        grids = [(t.shape[2], t.shape[3]) for name in convolutions for t in tensors_of_seen(seen[name]) if t.ndim == 4]
        self._clone = {name for name in layers if any(t._version != v for t, v in seen[name].versions)}
        outputs, fewer = self._run(three), self._run(three[:2])
        modules = dict(self.model.named_modules(remove_duplicate=False))
        for site, output, two in zip(self._sites, outputs, fewer, strict=True):
            check_batch(two, output, site=site)
            size = (three.shape[2], three.shape[3])
            self._forms.append(read_form(output, modules[site.layer], site=site, image=size, grids=grids))
        self._check_rows(outputs, fewer, three)

    def _check_calls(self, seen: Mapping[str, Seen]) -> None:
        for site in self._sites:
            calls = seen[site.layer].calls
            if calls == 0:
                raise EncoderError(
                    f"layer {site.spelled} of {self.name} is never called in its forward pass; --layers of "
                    "'hjepa models' shows which are"
                )
            if calls > 1:
                self.notes = (*self.notes, f"layer {site.spelled} is called {calls} times; its last output is read")

    def _check_rows(self, outputs: Sequence[Tensor], fewer: Sequence[Tensor], images: Tensor) -> None:
        """Check that an image's features depend on nothing else, and say where levels are alike.

        Raises:
            EncoderError: they depend on chance or on the other images of a batch.
        """
        again = self._run(images[:2])
        for site, output, two, repeated in zip(self._sites, outputs, fewer, again, strict=True):
            if not _alike(two, repeated):
                raise EncoderError(
                    f"layer {site.spelled} of {self.name} gives other values for the same images, as dropout does; "
                    "leave chance out of its forward pass in eval mode"
                )
            if not _alike(two, output[:2]):
                raise EncoderError(
                    f"layer {site.spelled} of {self.name} gives an image other values when other images are beside "
                    "it; leave statistics of the batch out of its forward pass in eval mode"
                )
        same = [
            f"{self._sites[a].spelled} and {self._sites[b].spelled}"
            for a in range(len(outputs))
            for b in range(a)
            if outputs[a].shape == outputs[b].shape and torch.equal(outputs[a], outputs[b])
        ]
        constant = [
            site.spelled
            for site, output in zip(self._sites, outputs, strict=True)
            if _alike(output[:1], output[1:2], share=_CONSTANT)
        ]
        if same:
            self.notes = (*self.notes, f"identical layers: {first_few(same)}; a table of them compares nothing")
        if constant:
            self.notes = (*self.notes, f"two images of noise give the same features at {first_few(constant)}")


def tensors_of_seen(seen: Seen) -> list[Tensor]:
    """Return what a watched layer returned, as a list; empty when it was not called."""
    return list((seen.output or {}).values())


def _alike(first: Tensor, second: Tensor, *, share: float | None = None) -> bool:
    difference = (first.float() - second.float()).abs().max()
    allowed = _SAME.get(first.dtype, 0.05) if share is None else share
    return bool(difference <= allowed * second.float().abs().max())


def _dtype(model: nn.Module, default: torch.dtype) -> torch.dtype:
    weights = next((tensor for tensor in model.parameters() if tensor.is_floating_point()), None)
    return default if weights is None else weights.dtype


def usual_transform(
    model: nn.Module, *, size: int | None = None, built_for: int | None = None
) -> tuple[Transform, str]:
    """Return how images are prepared where nothing says it, and a sentence on it.

    The size is the module's `img_size`, `image_size` or that of its `config`, else that which it was `built_for`, else
    224; the normalisation ImageNet's.
    """
    config = getattr(model, "config", None)
    known = [getattr(owner, name, None) for owner in (model, config) for name in ("img_size", "image_size")]
    sides = [value[0] if isinstance(value, list | tuple) else value for value in known if value]
    side = size or next((int(value) for value in sides if isinstance(value, int)), built_for or 224)
    transform = Transform(side, side, "bicubic", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    return transform, f"images {side}x{side}, ImageNet's mean and deviation, since nothing says how it wants them"


def module_transform(
    model: nn.Module, *, size: str | None = None, built_for: int | None = None
) -> tuple[Transform, str]:
    """Return a module's own `transform`, timm's, or the usual one and a sentence that says so.

    Args:
        model: any module.
        size: input size in pixels, which goes before the module's own.
        built_for: what its constructor was given, where the module does not keep it.

    Raises:
        EncoderError: `size` is no number.
    """
    if size is not None and not (size.isdigit() and int(size) > 0):
        raise EncoderError(f"?size={size}: expected a number of pixels")
    own = getattr(model, "transform", None)
    if isinstance(own, Transform) and size is None:
        return own, ""
    if isinstance(getattr(model, "pretrained_cfg", None), dict) and size is None:
        from hjepa_eval.encoders.kinds.timm_network import timm_transform

        return timm_transform(model, name=type(model).__name__), ""
    return usual_transform(model, size=int(size) if size else None, built_for=built_for)


# Sides that images are usually resized to.
_SIDES = (224, 32, 28, 64, 96, 112, 128, 160, 192, 240, 256, 288, 299, 320, 336, 384, 448, 512, 518)


@torch.no_grad()
def side_that_runs(model: nn.Module) -> int | None:
    """Return a usual side of images on which a module runs, None where it runs on none of them."""
    for side in _SIDES:
        with contextlib.suppress(Exception):
            model(torch.zeros(2, 3, side, side, dtype=_dtype(model, torch.float32)))
            return side
    return None


def load_module(model: nn.Module, *, layers: Sequence[str], transform: Transform | None) -> Encoder:
    """Return a module in memory as an encoder; it is told from others by its weights and by what it computes.

    Args:
        model: evaluates from now on. An `Encoder` is returned as it is.
        layers: names of the layers that are its levels.
        transform: how images become its input; as `module_transform` when not given.

    Raises:
        EncoderError: it is no module, no layer is named, or a layer cannot be a level.
        UnknownNameError: there is no such layer.
    """
    if isinstance(model, Encoder):
        if layers or transform is not None:
            raise EncoderError(f"{model.name} is an Encoder with levels and a transform of its own; leave them out")
        return model.eval()
    if not isinstance(model, nn.Module):
        raise EncoderError(f"expected the name of an encoder or a torch.nn.Module, found {type(model).__name__}")
    if not layers:
        names = first_few([name for name, _ in model.named_children()], 8)
        raise EncoderError(f"{type(model).__name__} has no levels; say which of its layers are: layers=[...] ({names})")
    notes: tuple[str, ...] = ()
    if transform is None:
        transform, note = module_transform(model)
        notes = (note,) if note else ()
    try:
        encoder = HookedEncoder(model, type(model).__name__, layers=layers, transform=transform)
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        side = side_that_runs(model.eval())
        if side in (None, transform.size):
            raise
        raise EncoderError(
            f"{type(model).__name__} failed on images of {transform.size}x{transform.size} pixels ({one_line(error)}); "
            f"it runs on {side}x{side}: pass transform=Transform({side}, {side})"
        ) from None
    encoder.notes = (*notes, *encoder.notes)
    return encoder


def one_line(error: Exception) -> str:
    """Return the first line of an error, cut where it is long."""
    return str(error).strip().partition("\n")[0][:200]
