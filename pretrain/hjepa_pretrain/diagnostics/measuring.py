"""What a trainer's levels look like now, what its masks cover, and which share of the device's peak its steps reach."""

from __future__ import annotations

import statistics
import time
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hjepa_pretrain.config.schedules import context_count
from hjepa_pretrain.data.training_data import LabelledImages
from hjepa_pretrain.diagnostics.levels import LevelFeatures, diagnose, readouts
from hjepa_pretrain.diagnostics.spectrum import gram_eigenvalues, rankme_of
from hjepa_pretrain.distributed.across_ranks import as_one_rank
from hjepa_pretrain.masks import Masks
from hjepa_pretrain.masks.inspection import mask_statistics
from hjepa_pretrain.models import HJEPA, create_hjepa_from_config
from hjepa_pretrain.models.encoders import ContextEncoder, token_flags
from hjepa_pretrain.training.step import step_loss
from hjepa_pretrain.training.trainer import Trainer

# The best of these sides counts: which one is fastest depends on caches and on the number of cores.
_SIDES = {"cpu": (1024, 2048), "cuda": (4096, 8192)}
_REPEATS = 7


def matmul_peak(device: torch.device, precision: str) -> float:
    """Return the TFLOP/s (10^12 operations) of the fastest of a few square products `a @ b`, medians of 7.

    Takes about a quarter of a second. No random state changes.

    Args:
        device: where it is measured.
        precision: `bf16` or `fp32`.
    """
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    generator = torch.Generator(device).manual_seed(0)
    best = 0.0
    for side in _SIDES.get(device.type, _SIDES["cpu"]):
        # Random numbers, since a GPU draws less power, and is faster, on zeros.
        a, b = (torch.randn(side, side, device=device, generator=generator).to(kind) for _ in range(2))
        took = [_seconds(a, b) for _ in range(_REPEATS)]
        best = max(best, 2 * side**3 / statistics.median(took) / 1e12)
    return best


def _seconds(a: torch.Tensor, b: torch.Tensor) -> float:
    if a.device.type == "cuda":
        torch.cuda.synchronize(a.device)
    began = time.perf_counter()
    torch.matmul(a, b)
    if a.device.type == "cuda":
        torch.cuda.synchronize(a.device)
    return time.perf_counter() - began


_BATCH = 256


def measure_levels(trainer: Trainer, *, progress: float | None = None) -> dict[str, Any]:
    """Return the diagnosis of both encoders' levels, and `mask_summary` under `masks` where there are masks.

    Weights, modes and random numbers stay as they are. All ranks must ask. The leader measures, and all get what it
    found.

    Args:
        trainer: between two steps.
        progress: share of the training that is done, for mask ratios that change; by the steps done when not given.
    """
    encoders = trainer.whole_encoders()
    if encoders is None:
        return trainer.ranks.share({})
    diagnosis = _measure(trainer, *encoders)
    if trainer.settings.data.augmentation == "crops":
        return trainer.ranks.share(diagnosis)  # Nothing is hidden of a crop.
    return trainer.ranks.share({**diagnosis, "masks": mask_summary(trainer, progress=progress)})


def untrained_ranks(trainer: Trainer) -> list[float]:
    """Return the RankMe of every level of the target encoder as it is now; all ranks must ask."""
    encoders = trainer.whole_encoders()
    if encoders is None:
        return trainer.ranks.share([])
    levels = _read(trainer, encoders[1], trainer.data.bank)
    return trainer.ranks.share([rankme_of(gram_eigenvalues(level.features, centred=True)) for level in levels])


def _read(trainer: Trainer, encoder: ContextEncoder, images: LabelledImages) -> list[LevelFeatures]:
    """Return the levels of an encoder in evaluation mode; its mode stays what it was."""
    training = encoder.training
    encoder.eval()
    with torch.autocast(trainer.device.type, torch.bfloat16, enabled=trainer.precision == "bf16"):
        levels = readouts(encoder, torch.split(images.images, _BATCH), normalise=trainer.transform.normalise)
    encoder.train(training)
    return levels


def _measure(trainer: Trainer, context_encoder: ContextEncoder, target_encoder: ContextEncoder) -> dict[str, Any]:
    bank, held_out = trainer.data.bank, trainer.data.held_out

    target = _read(trainer, target_encoder, bank)
    unseen = _read(trainer, target_encoder, held_out) if len(held_out.labels) else None
    context = _read(trainer, context_encoder, bank)
    return diagnose(target, bank.labels, context=context, held_out=unseen, held_out_labels=held_out.labels)


def mask_summary(trainer: Trainer, *, progress: float | None = None) -> dict[str, Any]:
    """Return JSON values: what the masks of a step cover, in 256 of them; nothing of the trainer changes.

    - `context`, `smallest_context`: tokens that are seen, as a mean share of the grid, and as the smallest number.
    - `targets`: share of the grid that is predicted at level 0; `union`: share that target blocks hide.
    - `complete_cells`: per level of the model, how many cells the blocks of an image hide wholly, on average.
    - `corner_to_centre`: how often the four corners of the grid are hidden over how often its middle tokens are (one,
      two or four of them); 1 where no place is special, None where the middle is never hidden.
    - `coverage_map`: how often each token is hidden, rows of the grid.

    Args:
        trainer: whose settings and step say which masks are drawn; its bank is looked at when masks follow saliency.
        progress: as in `measure_levels`.
    """
    masking, geometry, model = trainer.settings.masking, trainer.geometry, trainer.model
    seen = context_count(masking, geometry.num_patches, _done(trainer) if progress is None else progress)
    count, salient = _BATCH, None
    if masking.saliency:
        images = trainer.data.bank.images[:_BATCH].to(trainer.device)
        count, salient = len(images), model.target_encoder.saliency(trainer.transform.normalise(images))
    masks = trainer.inputs.masks.sample(
        count,
        trainer.device,
        step=trainer.step,
        context_tokens=seen,
        target_tokens=geometry.target_tokens(masking, seen),
        saliency=salient,
    )
    return _summary(masks, geometry.grid, levels=model.num_levels)


def _summary(masks: Masks, grid: tuple[int, int], *, levels: int) -> dict[str, Any]:
    """Return `mask_summary` of `masks` on a `grid`."""
    shown = token_flags(masks.context, masks.context_valid, grid[0] * grid[1])
    found = mask_statistics(shown, masks.target_flags.unsqueeze(1), grid)
    often = torch.tensor(found["coverage_map"])
    corners = often[[0, 0, -1, -1], [0, -1, 0, -1]].mean()
    middle = often[(grid[0] - 1) // 2 : grid[0] // 2 + 1, (grid[1] - 1) // 2 : grid[1] // 2 + 1].mean()
    return {
        "context": round(found["context_coverage"], 6),
        "smallest_context": found["smallest_context"],
        "targets": round(float(masks.targets_valid.sum(dim=1).float().mean()) / shown.shape[1], 6),
        "union": round(found["target_union"], 6),
        "complete_cells": [round(cells, 6) for cells in found["complete_cells"][:levels]],
        "corner_to_centre": round(float(corners / middle), 6) if middle > 0 else None,
        "coverage_map": [[round(share, 4) for share in row] for row in found["coverage_map"]],
    }


def step_gflop(trainer: Trainer, *, progress: float | None = None) -> float:
    """Return the matrix-product GFLOP (10^9 operations) of one optimiser step, over all ranks and parts of its batch.

    Forward and backward pass of the loss, and the target encoder's forward pass. Not counted: norms, softmax and the
    like, the optimiser, the inputs (augmentation, and the pass that masks by saliency take), and what activation
    checkpointing computes again, so that the number stands for the work, not for how it is done. To be called once by
    any rank: with `masking.mask_ratio_end` the work changes in the course of a run.

    Counted on a copy of the networks and on a step's inputs that have shapes and no content: nothing of the trainer,
    its data, its device's memory or any random state changes. Under several ranks a part's vectors of whole images meet
    those of that part alone, which leaves out a little of contrast and covariance.

    Source: `torch.utils.flop_counter`: a product of [M, K] and [K, N] is 2 M K N operations.
    """
    train, size = trainer.settings.train, trainer.settings.data.stored_size or trainer.transform.size
    parts = train.accumulate * trainer.ranks.count
    images = torch.zeros(train.batch_size // parts, 3, size, size, dtype=torch.uint8, device=trainer.device)
    done = _done(trainer) if progress is None else progress
    inputs = trainer.inputs(images, trainer.model, number=trainer.step * parts, progress=done)
    counter, fake = FlopCounterMode(display=False), FakeTensorMode(allow_non_fake_inputs=True)
    model = _model_on_meta(trainer)
    # Attention as plain products is the same number on every device; a fused kernel computes the scores twice.
    with torch.random.fork_rng(devices=[]), as_one_rank(), sdpa_kernel(SDPBackend.MATH), fake:
        model.to_empty(device="cpu")
        empty = _emptied(inputs)
        with counter:
            loss, _ = step_loss(model, empty, train, precision="fp32")
            torch.autograd.backward(loss)
    return counter.get_total_flops() * parts / 1e9


def _done(trainer: Trainer) -> float:
    """Return the share of the steps that is done; 0 where their number is not known."""
    return min(trainer.step / trainer.total_steps, 1.0) if trainer.total_steps else 0.0


def _model_on_meta(trainer: Trainer) -> HJEPA:
    """Return the networks of a trainer in training mode without their weights; nothing is computed twice in them."""
    settings = trainer.settings
    train = settings.train.model_copy(update={"checkpoint_activations": False})
    with torch.device("meta"):
        return create_hjepa_from_config(settings.model_copy(update={"train": train})).train()


def _emptied(value: Any) -> Any:
    """Return a dataclass with tensors of the present mode on the CPU in place of its tensors."""
    if isinstance(value, Tensor):
        return torch.empty(value.shape, dtype=value.dtype)
    if value is None:
        return None
    return replace(value, **{field.name: _emptied(getattr(value, field.name)) for field in fields(value)})


class Work:
    """Arithmetic of a step and peak of the device, measured once, by the leader.

    Attributes:
        gflop: of one step, over all ranks; None before it was counted.
        peak: TFLOP/s of matrix products on this device in this session; None before it was measured.
    """

    def __init__(self, gflop: float | None = None) -> None:
        """Go on with what an earlier session counted."""
        self.gflop = gflop
        self.peak: float | None = None

    def measure(self, trainer: Trainer, *, progress: float) -> None:
        """Count and measure what is not known yet."""
        if self.gflop is None:
            self.gflop = step_gflop(trainer, progress=progress)
        if self.peak is None:
            self.peak = matmul_peak(trainer.device, trainer.precision)

    def at(self, steps_per_second: float, *, ranks: int) -> dict[str, float]:
        """Return JSON values for a speed: `step_gflop`, `tflops_per_second`, `peak_tflops_per_second`, and `mfu`.

        The peak is that of one rank. The last is the model FLOPs utilisation, the share of all ranks' peak that the
        matrix products of steps take. Other programs on the machine lower both. What is not known yet is left out.

        Source: PaLM (Chowdhery et al. 2022), appendix B. Deviation: the peak is measured, not the data sheet's.
        """
        if self.gflop is None:
            return {}
        rate = self.gflop * steps_per_second / 1e3
        found = {"step_gflop": round(self.gflop, 3), "tflops_per_second": round(rate, 4)}
        if self.peak is None:
            return found
        share = rate / (self.peak * ranks)
        return {**found, "peak_tflops_per_second": round(self.peak, 4), "mfu": round(share, 4)}
