"""Handles: what an encoder is, without building it, as long as everything it was made from stays the same."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hjepa_eval.datasets.protocol import ImageDataset
from hjepa_eval.datasets.transform import Transform
from hjepa_eval.encoders import load_encoder
from hjepa_eval.encoders.readouts import Level
from hjepa_eval.errors import EncoderError
from hjepa_eval.features.fingerprint import canonical_json, hash_json
from hjepa_eval.features.memo import file_state, recall, remember

if TYPE_CHECKING:
    from hjepa_eval.encoders.protocol import Encoder

_PACKAGES = ("hjepa", "torch", "timm", "transformers")


class EncoderHandle:
    """An encoder that is built when it is first needed.

    Attributes:
        name: how reports call it.
        identity: as `Encoder.identity`, JSON values.
        levels: finest first.
        transform: how images become its input.
        notes: what a user should know of how it was made.
    """

    def __init__(
        self, name: str, identity: dict[str, Any], build: Callable[[], Encoder], *, notes: Sequence[str] = ()
    ) -> None:
        """Take what is known of an encoder, and how to get it."""
        self.name = name
        self.notes = tuple(notes)
        self.identity = identity
        self.levels = tuple(Level(**{**level, "grid": tuple(level["grid"])}) for level in identity["levels"])
        transform = identity["transform"]
        self.transform = Transform(**{**transform, "mean": tuple(transform["mean"]), "std": tuple(transform["std"])})
        self._build = build
        self._built: Encoder | None = None

    @classmethod
    def of(cls, encoder: Encoder) -> EncoderHandle:
        """Return the handle of an encoder that is there already."""
        handle = cls(encoder.name, encoder.identity(), lambda: encoder, notes=encoder.notes)
        handle._built = encoder
        return handle

    def build(self) -> Encoder:
        """Return the encoder itself.

        Raises:
            EncoderError: it is another one than before; its weights changed meanwhile.
            HjepaError: as `load_encoder`.
        """
        if self._built is None:
            built = self._build()
            if canonical_json(built.identity()) != canonical_json(self.identity):
                raise EncoderError(f"{self.name} has changed since this command looked at it; run the command again")
            self._built = built
        return self._built


def open_encoder(
    spec: str,
    *,
    seed: int = 0,
    download: bool = False,
    train_images: Callable[[], ImageDataset] | None = None,
    cache_dir: Path | None = None,
) -> EncoderHandle:
    """Return a handle of the encoder that `spec` names; what it is comes from `cache_dir` when nothing has changed.

    Building a ViT and hashing its weights takes seconds, which a second call on complete stores need not spend.

    Args:
        spec: as `load_encoder`, like the other arguments.
        seed: of untrained weights.
        download: fetch pretrained weights that are not on this machine.
        train_images: gives the images that an encoder such as `kmeans` is fitted on.
        cache_dir: where identities are remembered, below `encoders`; None remembers nothing.

    Raises:
        HjepaError: as `load_encoder`, now or when the encoder is built.
    """

    def build() -> Encoder:
        return load_encoder(spec, seed=seed, download=download, train_images=train_images, cache_dir=cache_dir)

    if cache_dir is None:
        return EncoderHandle.of(build())
    memo = cache_dir / "encoders"
    signature = hash_json(_signature(spec, seed))
    known = _recall(memo, signature)
    if known is not None:
        return EncoderHandle(known["name"], known["identity"], build, notes=known["notes"])
    encoder = build()
    handle = EncoderHandle.of(encoder)
    if encoder.files is not None:
        files = [str(file.absolute()) for file in encoder.files]
        answer = {"files": files, "status": _status(files), "name": encoder.name, "identity": handle.identity}
        answer["notes"] = list(encoder.notes)
        remember(memo, signature, answer, root=encoder.files[0] if encoder.files else None)
    return handle


def code_files() -> list[Path]:
    """Return the files of the toolkit whose code may build, fit, fill or run an encoder: all of them.

    Which of them an encoder needs, no list would say for long: k-means reads images, a run reads its configuration. To
    look at the times of all takes 2 ms; a change anywhere costs one building of the encoder, never an old identity.
    """
    return sorted(Path(__file__).parents[1].rglob("*.py"))


def _signature(spec: str, seed: int) -> dict[str, Any]:
    """Return what an identity depends on besides files: name, seed, folder of relative names, and all code."""
    code = code_files()
    return {
        "spec": spec,
        "seed": seed,
        "folder": os.getcwd(),
        "versions": [_version(package) for package in _PACKAGES],
        "code": _status([str(file) for file in code]),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def _status(files: Sequence[str]) -> list[list[int]] | None:
    """Return size, times and inode of each file, which a change cannot keep; None when one is gone."""
    try:
        found = [os.stat(file) for file in files]
    except OSError:
        return None
    return [file_state(each) for each in found]


def _recall(memo: Path, signature: str) -> dict[str, Any] | None:
    """Return what is remembered, or None unless all files are as they were."""
    known = recall(memo, signature)
    if known is None or not {"files", "status", "name", "identity", "notes"} <= known.keys():
        return None
    return known if known["status"] is not None and known["status"] == _status(known["files"]) else None
