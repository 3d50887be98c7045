"""What the levels of an encoder cost, for records: measured once per encoder and machine, remembered in the cache."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from hjepa_eval.encoders.handle import EncoderHandle
from hjepa_eval.features.cache import encoders_dir
from hjepa_eval.features.fingerprint import hash_json
from hjepa_eval.features.memo import recall, remember
from hjepa_eval.machine.devices import hardware_name
from hjepa_eval.results.records import CostEntry

if TYPE_CHECKING:
    from hjepa_eval.encoders.protocol import Encoder

# Raised by one whenever costs are counted or timed in another way.
_METHOD = 3
# Parts of an identity that say how an encoder computes.
_SHARED = ("class", "levels", "settings", "transform")
# What counting raises on an encoder whose operations cannot be written down.
_UNCOUNTABLE = (RuntimeError, TypeError, ValueError, AttributeError, AssertionError)


@dataclass(frozen=True)
class LevelCosts:
    """What an image costs.

    Attributes:
        levels: up to each level alone, by its number; None where torch does not see the work, as through numpy.
        together: for all levels of one forward pass; None where that of one level is.
        uncounted: operations without a formula, by level; their work is not in the GFLOP.
    """

    levels: Mapping[int, CostEntry | None]
    together: CostEntry | None
    uncounted: Mapping[int, tuple[str, ...]]

    def of(self, levels: tuple[int, ...]) -> CostEntry | None:
        """Return the cost of one level, or of all joined; None for some of them joined, which nobody measured."""
        if len(levels) == 1:
            return self.levels[levels[0]]
        return self.together if set(levels) == set(self.levels) else None

    def note(self, levels: tuple[int, ...]) -> tuple[str, ...]:
        """Return what must be said beside the GFLOP of these levels: nothing, or a sentence."""
        if self.of(levels) is None:
            return ()
        names = sorted({name for level in levels for name in self.uncounted[level]})
        return (f"GFLOP without {', '.join(names)}, for which there is no formula",) if names else ()


def level_costs(
    encoder: EncoderHandle,
    *,
    device: str,
    precision: str,
    cache_dir: Path,
    say: Callable[[str], None],
) -> LevelCosts | None:
    """Return what the levels cost; None for an encoder whose operations cannot be written down.

    The encoder is built for the first measurement only: what was measured on this machine's processor or GPU, at this
    precision and with as many threads, is remembered beside its identity, and for all encoders of its architecture:
    two checkpoints cost the same. Costs without milliseconds, as where memory was short or the machine busy with other
    work, are said and not remembered.

    Args:
        encoder: a handle.
        device: where it is timed.
        precision: `bf16` or `fp32`.
        cache_dir: where costs are remembered, below `encoders`.
        say: told once why there are no milliseconds.

    Raises:
        HjepaError: as `EncoderHandle.build`.
    """
    memo = encoders_dir(cache_dir)
    conditions = _conditions(device, precision)
    signature = hash_json({**conditions, "identity": encoder.identity})
    try:
        return _read(recall(memo, signature))
    except (KeyError, TypeError, ValueError, AttributeError, ValidationError):
        pass  # Nothing is remembered, or it is damaged.
    built = encoder.build()
    alike = hash_json({**conditions, "architecture": _architecture(built)})
    try:
        costs = _read(recall(memo, alike))
    except (KeyError, TypeError, ValueError, AttributeError, ValidationError):
        costs, failure = _measure(built, device, precision)
        if failure:
            say(f"{encoder.name} has no ms per image, since {failure}")
            return costs
        remember(memo, alike, {"costs": None if costs is None else _written(costs)})
    remember(memo, signature, {"costs": None if costs is None else _written(costs)})
    return costs


def _conditions(device: str, precision: str) -> dict[str, Any]:
    """Return what a measurement depends on beside the encoder, found without importing torch for the CPU."""
    allowed = getattr(os, "sched_getaffinity", None)
    return {
        "costs": _METHOD,
        "hardware": hardware_name(device),
        "precision": precision,
        "cores": len(allowed(0)) if allowed is not None else os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "torch": version("torch"),
    }


def _architecture(encoder: Encoder) -> dict[str, Any]:
    """Return what encoders of equal cost share: all of their identity but the weights' values, and all modules."""
    identity = {name: value for name, value in encoder.identity().items() if name in _SHARED}
    return {
        **identity,
        "modules": repr(encoder),
        "shapes": {name: list(tensor.shape) for name, tensor in encoder.state_dict().items()},
    }


def _read(answer: dict[str, Any] | None) -> LevelCosts | None:
    if answer is None:
        raise KeyError("costs")
    costs = answer["costs"]
    if costs is None:
        return None
    return LevelCosts(
        {int(level): _read_cost(cost) for level, cost in costs["levels"].items()},
        _read_cost(costs["together"]),
        {int(level): tuple(names) for level, names in costs["uncounted"].items()},
    )


def _read_cost(cost: Any) -> CostEntry | None:
    return None if cost is None else CostEntry.model_validate(cost)


def _written(costs: LevelCosts) -> dict[str, Any]:
    return {
        "levels": {str(level): cost and cost.model_dump(mode="json") for level, cost in costs.levels.items()},
        "together": costs.together and costs.together.model_dump(mode="json"),
        "uncounted": {str(level): list(names) for level, names in costs.uncounted.items()},
    }


def _measure(encoder: Encoder, device: str, precision: str) -> tuple[LevelCosts | None, str]:
    """Return the costs, and why they are without milliseconds where timing failed; else an empty text."""
    import torch

    from hjepa_eval.encoders.costs import OUTSIDE, Cost, encoder_costs
    from hjepa_eval.extraction.timing import EncoderTiming, Milliseconds, encoder_timing, timed_batch

    try:
        counted = encoder_costs(encoder)
    except _UNCOUNTABLE:
        return None, ""
    timing: EncoderTiming | None = None
    failure = ""
    try:
        batch = timed_batch(device)
        timing = encoder_timing(encoder, device=torch.device(device), precision=precision, batch=batch)
        if not timing.steady:
            timing, failure = None, "forward passes took unlike times: the machine is busy; measure when it is quiet"
    except RuntimeError as error:  # torch's own, such as too little memory: no number of a probe depends on it.
        failure = f"timing failed: {' '.join(str(error).split()) or type(error).__name__}"
    where = hardware_name(device) if device != "cpu" else f"{hardware_name(device)}, {torch.get_num_threads()} threads"

    def cost(count: Cost, spent: Milliseconds | None) -> CostEntry | None:
        if OUTSIDE in count.uncounted:
            return None  # These GFLOP would be those of a part, and look like those of the whole.
        return CostEntry(
            gflop=count.gflop,
            parameters=count.parameters,
            milliseconds=None if spent is None else spent.median,
            spread=None if spent is None else spent.spread,
            batch=timing.batch if timing is not None and spent is not None else None,
            device=where,
            precision=precision,
        )

    times = (timing and timing.levels) or (None,) * len(encoder.levels)
    levels = {each.level: cost(each, spent) for each, spent in zip(counted.levels, times, strict=True)}
    whole = all(each is not None for each in levels.values())
    together = cost(counted.together, timing.together if timing else None) if whole else None
    return LevelCosts(levels, together, {each.level: each.uncounted for each in counted.levels}), failure
