"""Names of weights: a foreign checkpoint's into those of the network that it fills, by prefix or by order."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from torch import Tensor, nn

from hjepa_eval.encoders.weights import Weights, load_strict, read_weights
from hjepa_eval.errors import CheckpointError, first_few, unknown

# What a larger network, or Lightning, calls the encoder inside it.
PREFIXES = ("backbone.", "encoder.", "model.", "teacher.", "network.", "vit.")
OPTIONS = ("checkpoint", "section", "prefix", "names")
_NAMINGS = ("own", "order")
_DEEPEST = 3
_KINDS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
# A classifier at the end, which an encoder has no use for: its weight and bias.
_TRAILING = 2


def fill(model: nn.Module, options: Mapping[str, str], *, ignore: Collection[str] = ()) -> tuple[str, ...]:
    """Fill a network from `?checkpoint=FILE`, and return what was unwrapped, chosen or left out, for people.

    Args:
        model: module to fill.
        options: `checkpoint`; `section` and `prefix`, which of its tensors; `names`: `own`, or `order` for a checkpoint
            with other names for the same tensors in the same order.
        ignore: prefixes of names that may be left over, such as a classifier's.

    Raises:
        CheckpointError: the file cannot be read or its tensors do not fit.
        UnknownNameError: `names` is neither `own` nor `order`.
    """
    naming = options.get("names", "own")
    if naming not in _NAMINGS:
        raise unknown("way of ?names=", naming, _NAMINGS)
    file = Path(options["checkpoint"])
    weights = read_weights(file, section=options.get("section"))
    if naming == "order":
        weights = choose_prefix(weights, options["prefix"], source=str(file)) if "prefix" in options else weights
        weights = by_order(weights, model.state_dict(), source=str(file))
    elif "prefix" in options:
        weights = choose_prefix(weights, options["prefix"], source=str(file))
    else:
        weights = fit_prefix(weights, model.state_dict())
    left = load_strict(model, weights.tensors, source=str(file), ignore=ignore)
    unused = (f"not used: {first_few(left)}",) if left else ()
    return (*weights.notes, *unused)


def choose_prefix(weights: Weights, prefix: str, *, source: str) -> Weights:
    """Return the tensors whose names begin with `prefix`, without it; the others are named in the notes.

    Raises:
        CheckpointError: there are none.
    """
    inside = {name.removeprefix(prefix): tensor for name, tensor in weights.tensors.items() if name.startswith(prefix)}
    outside = [name for name in weights.tensors if not name.startswith(prefix)]
    if not inside:
        heads = dict.fromkeys(f"{name.partition('.')[0]}." for name in weights.tensors if "." in name)
        raise CheckpointError(
            f"{source} has no tensor whose name begins with {prefix!r}; they begin with {first_few(heads)}"
        )
    left = f"; not used: {first_few(outside)}" if outside else ""
    return Weights(inside, (*weights.notes, f"names without their {prefix}{left}"))


def fit_prefix(weights: Weights, wanted: Collection[str]) -> Weights:
    """Return the tensors by the names that most of `wanted` have: as they are, or without one or more `PREFIXES`."""
    names = set(wanted)

    def score(prefix: str) -> int:
        return sum(name.startswith(prefix) and name[len(prefix) :] in names for name in weights.tensors)

    candidates = [""]
    for _ in range(_DEEPEST):
        longer = (head + tail for head in candidates for tail in PREFIXES)
        candidates += [prefix for prefix in longer if any(name.startswith(prefix) for name in weights.tensors)]
        candidates = list(dict.fromkeys(candidates))
    best = max(candidates, key=score)
    return choose_prefix(weights, best, source="") if best and score(best) > score("") else weights


def by_order(weights: Weights, wanted: Mapping[str, Tensor], *, source: str) -> Weights:
    """Return the tensors by the names of `wanted`: the first by the first, and so on, each of the same shape and kind.

    The kind is what the last part of a name says: `weight`, `bias`, `running_mean` and so on. At most two tensors may
    be left at the end, a classifier's; the notes name them.

    Raises:
        CheckpointError: a shape or a kind differs, or there are other numbers of tensors.
    """
    theirs, ours = list(weights.tensors.items()), list(wanted.items())
    if not any(name.endswith("num_batches_tracked") for name, _ in theirs):
        ours = [(name, tensor) for name, tensor in ours if not name.endswith("num_batches_tracked")]
    left = [name for name, _ in theirs[len(ours) :]]
    if not 0 <= len(theirs) - len(ours) <= _TRAILING:
        raise CheckpointError(
            f"?names=order: {source} holds {len(theirs)} tensors and the encoder {len(ours)}; they must be the same, "
            "but for a classifier at the end"
        )
    for place, ((their_name, their), (name, our)) in enumerate(zip(theirs, ours, strict=False)):
        kinds = [part if (part := full.rpartition(".")[2]) in _KINDS else "" for full in (their_name, name)]
        if their.shape != our.shape or (all(kinds) and kinds[0] != kinds[1]):
            raise CheckpointError(
                f"?names=order: tensor {place} of {source} is {their_name} {list(their.shape)}, and that of the "
                f"encoder {name} {list(our.shape)}; the order is another, so rename the tensors yourself"
            )
    pairs = [f"{theirs[place][0]} = {ours[place][0]}" for place in (0, len(ours) - 1)]
    tensors = {name: theirs[place][1] for place, (name, _) in enumerate(ours)}
    tensors |= {name: tensor for name, tensor in wanted.items() if name not in tensors}
    unused = f"; not used: {first_few(left)}" if left else ""
    return Weights(
        tensors,
        (*weights.notes, f"{len(ours)} names matched by order and shape alone, from {pairs[0]} to {pairs[1]}{unused}"),
    )
