"""What the levels look like during training: spread, ranks, constant part, and kNN of images held out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hjepa_eval.probes.knn import knn
from hjepa_eval.probes.samples import Samples
from hjepa_pretrain.diagnostics.spectrum import (
    agreement,
    deviations,
    gram_eigenvalues,
    mean_energy,
    participation_ratio_of,
    rankme_of,
    token_ratio,
    token_variance,
)
from hjepa_pretrain.models.encoders import ContextEncoder


@dataclass(frozen=True)
class LevelFeatures:
    """One level of N images, float32 on the CPU.

    Attributes:
        features: `[N, D]`, the mean token as evaluation reads it.
        before_norm: `[N, D]`, the mean token before the encoder's final LayerNorm; `features` where there is none.
        within: `[N]`, the variance over an image's tokens, averaged over dimensions.
    """

    features: Tensor
    before_norm: Tensor
    within: Tensor

    def __len__(self) -> int:
        """Return the number of images N."""
        return len(self.features)


@torch.no_grad()
def readouts(
    encoder: ContextEncoder, batches: Iterable[Tensor], *, normalise: Callable[[Tensor], Tensor] | None = None
) -> list[LevelFeatures]:
    """Return the features of every level; one batch at a time is on the encoder's device.

    A compiled encoder runs uncompiled here: its kernels are made for the batch of a training step, and would hide what
    goes into the norm.

    Args:
        encoder: in whichever mode it shall be read; the context encoder drops paths unless it is in evaluation mode.
        batches: whole images `[B, 3, H, W]`, such as `images.split(256)`.
        normalise: makes the encoder's input of a batch on its device (of uint8, say); batches are the input if absent.
    """
    device = next(encoder.parameters()).device
    parts: list[list[tuple[Tensor, ...]]] = [[] for _ in encoder.taps]
    with _NormInputs(encoder) as seen, torch.compiler.set_stance("force_eager"):
        for batch in batches:
            images = batch.to(device)
            outputs = encoder(images if normalise is None else normalise(images))
            raw = seen.take(outputs)
            for level, part in enumerate(parts):
                tokens = outputs[level][:, encoder.prefix :].float()
                before = raw[level][:, encoder.prefix :].float().mean(dim=1)
                part.append((tokens.mean(dim=1).cpu(), before.cpu(), token_variance(tokens).cpu()))
    return [LevelFeatures(*(torch.cat(column) for column in zip(*part, strict=True))) for part in parts]


class _NormInputs:
    """Watches the encoder's final norm: which of its inputs became which output."""

    def __init__(self, encoder: ContextEncoder) -> None:
        norm = getattr(getattr(encoder, "vit", None), "norm", None)
        self.norm: nn.Module | None = norm if isinstance(norm, nn.Module) else None
        self.pairs: list[tuple[Tensor, Tensor]] = []

    def __enter__(self) -> _NormInputs:
        watch = self.norm.register_forward_hook if self.norm is not None else None
        self.handle = watch(self._note) if watch else None
        return self

    def __exit__(self, *_: object) -> None:
        if self.handle is not None:
            self.handle.remove()

    def _note(self, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.pairs.append((inputs[0], output))

    def take(self, outputs: list[Tensor]) -> list[Tensor]:
        """Return what was normed into each of `outputs`, or the output itself, and forget the batch."""
        found = [next((before for before, after in self.pairs if after is output), output) for output in outputs]
        self.pairs.clear()
        return found


NEIGHBOURS = 20
TEMPERATURE = 0.07


def diagnose(
    bank: Sequence[LevelFeatures],
    labels: Tensor,
    *,
    context: Sequence[LevelFeatures] | None = None,
    held_out: Sequence[LevelFeatures] | None = None,
    held_out_labels: Tensor | None = None,
) -> dict[str, Any]:
    """Return JSON values, one list entry per level; NaN where features are not finite, None where there is no value.

    - `images`: N of the bank, the largest rank that can be seen.
    - `std`, `smallest_std`: mean and minimum over dimensions of the deviation over images, before the final norm.
    - `rankme`: of the centred features; `effective_rank`: participation ratio of their covariance.
    - `mean_energy`: share of the mean vector in the energy, which a centred rank cannot see.
    - `token_ratio`: variance of tokens within an image over that of images.
    - `cosine`: between context and target encoder; without `context` the key is missing.
    - `knn_images`: how many images the kNN is an accuracy of.
    - `knn`: accuracy of the held-out images with the bank as voters, or of the bank itself, leaving one out.

    Deviation: RankMe of the centred features instead of the features as they are, so that a large constant part does
        not pass for collapse.

    Args:
        bank: the target encoder's levels of N trained images; N >= 4,096 for ranks that do not depend on N.
        labels: int64 `[N]`; with fewer than two classes kNN is None.
        context: the context encoder's levels of the same images.
        held_out: the target encoder's levels of M images that are never trained on.
        held_out_labels: int64 `[M]`.
    """
    if held_out is not None and not len(held_out[0]):
        held_out = None
    columns: dict[str, list[Any]] = {}
    for number, level in enumerate(bank):
        spread = _spread(level)
        if context is not None:
            spread["cosine"] = agreement(context[number].features, level.features)
        queries = None if held_out is None else held_out[number].features
        spread["knn"] = nearest_neighbour_score(level.features, labels, queries, held_out_labels)
        for name, value in spread.items():
            columns.setdefault(name, []).append(None if value is None else round(value, 6))
    judged = len(labels) if held_out is None else len(held_out[0])
    return {"images": len(labels), "knn_images": judged, **columns}


def _spread(level: LevelFeatures) -> dict[str, float | None]:
    """Return the measures of one level that need no other features."""
    raw = deviations(level.before_norm)
    values = gram_eigenvalues(level.features, centred=True)
    return {
        "std": float(raw.mean()),
        "smallest_std": float(raw.min()),
        "rankme": rankme_of(values),
        "effective_rank": participation_ratio_of(values),
        "mean_energy": mean_energy(level.features),
        "token_ratio": token_ratio(level.within, level.features),
    }


def nearest_neighbour_score(
    bank: Tensor, labels: Tensor, queries: Tensor | None = None, query_labels: Tensor | None = None
) -> float | None:
    """Return the kNN accuracy of `queries` `[M, D]`, or of the bank `[N, D]` itself, leaving one out.

    20 neighbours by cosine, votes exp(cos / 0.07): the toolkit's own kNN, with its rule for ties. On 2 cores 5,000
    queries with 5,000 voters of width 192 take about half a second.

    Returns:
        None when fewer than two classes vote, NaN when features are not finite.

    Source: DINO's `eval_knn.py`; Wu et al., arXiv:1805.01978.
    """
    if len(labels) < 2 or int(labels.min()) == int(labels.max()):
        return None
    if not all(bool(part.isfinite().all()) for part in (bank, queries) if part is not None):
        return float("nan")
    test = None
    if queries is not None and query_labels is not None:
        test = Samples(queries.float().cpu().numpy(), query_labels.cpu().numpy())
    train = Samples(bank.float().cpu().numpy(), labels.cpu().numpy())
    classes = 1 + max(
        int(part.max()) for part in (labels, query_labels if test is not None else None) if part is not None
    )
    # FAISS would be loaded for this alone, and is no faster at this size.
    result = knn(
        train,
        test,
        num_classes=classes,
        ks=(NEIGHBOURS,),
        temperature=TEMPERATURE,
        backend="torch",
        leave_one_out=test is None,
    )
    return next(iter(result.scores.values())).value
