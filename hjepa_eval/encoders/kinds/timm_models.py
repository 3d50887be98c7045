"""timm models by name: untrained, from a checkpoint, from this machine's Hugging Face cache, or a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch

from hjepa_eval.encoders.kinds.hooked import HookedEncoder
from hjepa_eval.encoders.kinds.timm_folder import load_timm_folder
from hjepa_eval.encoders.kinds.timm_network import parse_level_options, timm_transform, wrap_timm
from hjepa_eval.encoders.networks.convolutions import is_convolutions
from hjepa_eval.encoders.networks.naming import fill
from hjepa_eval.encoders.protocol import Encoder
from hjepa_eval.encoders.stages import create_stages
from hjepa_eval.encoders.vit import create_vit, is_energy
from hjepa_eval.errors import EncoderError, unknown


def build_untrained(name: str, *, seed: int) -> tuple[Any, int | None]:
    """Return an untrained timm model without a classifier, and its image size when the name sets one.

    Raises:
        UnknownNameError: neither timm nor the ViT grammar knows the name.
    """
    known = timm.list_models()
    if name.partition(".")[0] in known:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return timm.create_model(name, pretrained=False, num_classes=0), None
    if is_convolutions(name):
        return create_stages(name, seed=seed), None
    if not (name.startswith("vit_") or is_energy(name)):
        raise unknown("timm model", name, known) if len(name) > 3 else EncoderError(f"no timm model {name!r}")
    model = create_vit(name, seed=seed)
    return model, int(model.patch_embed.img_size[0])


def _wrap(model: Any, name: str, options: Mapping[str, str], *, size: int | None) -> Encoder:
    """Return a timm model as an encoder, of its usual levels or of the layers that `?layers=` names."""
    if "layers" not in options:
        return wrap_timm(model, name, size=size, **parse_level_options(options))
    both = [key for key in ("levels", "taps") if key in options]
    if both:
        raise EncoderError(f"{name}: ?layers= names the levels, so leave ?{both[0]}= out")
    layers = [layer.strip() for layer in options["layers"].split(",") if layer.strip()]
    transform = timm_transform(model, name=name, size=size)
    architecture = {"architecture": {"timm": name.partition(":")[2]}}
    return HookedEncoder(model, name, layers=layers, transform=transform, settings=architecture)


def load_random(name: str, options: Mapping[str, str], *, seed: int) -> Encoder:
    """Return the untrained encoder `random:NAME`; the seed is part of its identity through its weights."""
    model, size = build_untrained(name, seed=seed)
    encoder = _wrap(model, f"random:{name}", options, size=size)
    encoder.files = ()
    return encoder


def load_timm(name: str, options: Mapping[str, str], *, download: bool) -> Encoder:
    """Return `timm:NAME` with weights from `?checkpoint=FILE`, this machine's Hugging Face cache, or a download.

    The name `local-dir:FOLDER` is a folder that timm or `hjepa export` wrote, with its own weights.

    Of a checkpoint `?section=`, `?prefix=` and `?names=order` say which tensors, and under which names, as `fill` does.

    Raises:
        UnknownNameError: there is no such model.
        CheckpointError: the checkpoint does not fit.
        EncoderError: the weights are not on this machine and `download` is false.
    """
    if name.startswith("local-dir:"):
        if "checkpoint" in options:
            raise EncoderError(f"timm:{name} has weights of its own; leave ?checkpoint out")
        return load_timm_folder(Path(name.removeprefix("local-dir:")), options)
    model, size = build_untrained(name, seed=0)
    checkpoint = options.get("checkpoint") or _cached_weights(model)
    notes: tuple[str, ...] = ()
    if checkpoint is not None:
        notes = fill(model, {**options, "checkpoint": checkpoint}, ignore=classifier_of(model))
    elif download and size is None:
        try:
            model = timm.create_model(name, pretrained=True, num_classes=0)
        except (OSError, RuntimeError, ValueError) as error:
            raise EncoderError(f"timm:{name}: the download failed: {str(error).splitlines()[0]}") from None
    else:
        raise EncoderError(
            f"timm:{name}: its pretrained weights are not on this machine; fetch them with --download, "
            f"name a file with timm:{name}?checkpoint=FILE, or take it untrained with random:{name}"
        )
    encoder = _wrap(model, f"timm:{name}", options, size=size)
    encoder.notes = (*notes, *encoder.notes)
    if options.get("checkpoint"):
        encoder.files = (Path(options["checkpoint"]),)
    elif checkpoint is not None:
        # In the cache: REPOSITORY/snapshots/REVISION/FILE, and refs/main says which revision is the newest.
        encoder.files = (Path(checkpoint), Path(checkpoint).parents[2] / "refs" / "main")
    return encoder


def classifier_of(model: Any) -> list[str]:
    """Return the names that weights of a timm model's classifier begin with."""
    classifier = model.pretrained_cfg.get("classifier") or ()
    return [f"{classifier}."] if isinstance(classifier, str) else [f"{name}." for name in classifier]


def _cached_weights(model: Any) -> str | None:
    """Return the file in the Hugging Face cache that holds this model's pretrained weights, without any request."""
    repository = model.pretrained_cfg.get("hf_hub_id")
    if not repository:
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, "model.safetensors")
    return found if isinstance(found, str) else None
