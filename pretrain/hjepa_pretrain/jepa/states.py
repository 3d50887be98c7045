"""States: what an encoder takes and gives, a tensor, or tuples and dicts of them with one row per example."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

from hjepa_eval.errors import TrainingError


def leaves(state: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a state with their names, such as `[0]` or `['text']`.

    Raises:
        TrainingError: something in it is no tensor, tuple, list or dict.
    """
    if isinstance(state, Tensor):
        yield name, state
    elif isinstance(state, dict):
        for key, value in state.items():
            yield from leaves(value, f"{name}[{key!r}]")
    elif isinstance(state, tuple | list):
        for number, value in enumerate(state):
            yield from leaves(value, f"{name}[{number}]")
    else:
        raise TrainingError(
            f"a state is a tensor, or a tuple or dict of tensors; found {type(state).__name__} {name}".rstrip()
        )


def map_state(function: Callable[[Tensor], Any], state: Any) -> Any:
    """Return a state with `function` of its tensors in their place."""
    if isinstance(state, Tensor):
        return function(state)
    if isinstance(state, dict):
        return {key: map_state(function, value) for key, value in state.items()}
    return tuple(map_state(function, value) for value in state)


def take(state: Any, positions: Tensor) -> Any:
    """Return the examples at `positions` of a state, where the state lies."""
    return map_state(lambda tensor: tensor[positions.to(tensor.device)], state)


def batch_of(state: Any, what: str) -> int:
    """Return how many examples a state holds.

    Args:
        state: whose tensors have one row per example.
        what: how messages call it, such as `state_t`.

    Raises:
        TrainingError: it is empty, or its tensors have unlike numbers of rows.
    """
    rows = {name: len(tensor) if tensor.ndim else 0 for name, tensor in leaves(state)}
    if not rows or not all(rows.values()):
        raise TrainingError(f"{what} holds no examples; give tensors with one row per example")
    if len(set(rows.values())) > 1:
        found = ", ".join(f"{what}{name} has {count}" for name, count in rows.items())
        raise TrainingError(f"the parts of a state have one row per example each: {found}")
    return next(iter(rows.values()))


def apply(module: Callable[..., Any], state: Any) -> Any:
    """Return what a module says of a state: a tuple is its arguments, a dict its named arguments."""
    if isinstance(state, dict):
        return module(**state)
    if isinstance(state, tuple | list):
        return module(*state)
    return module(state)


def shapes(state: Any) -> str:
    """Return a state's shapes for messages: `[4, 256]`, or `[0] [4, 256], [1] [4, 8]`."""
    return ", ".join(f"{name} {list(tensor.shape)}".strip() for name, tensor in leaves(state))


def check_alike(prediction: Any, target: Any) -> None:
    """Check that a prediction has the parts and shapes of its target.

    Raises:
        TrainingError: it has not; the message says which of them to mend.
    """
    made, wanted = dict(leaves(prediction)), dict(leaves(target))
    if {name: tensor.shape for name, tensor in made.items()} == {name: tensor.shape for name, tensor in wanted.items()}:
        return
    first = next((name for name in wanted if name in made and made[name].shape != wanted[name].shape), None)
    advice = "return the same parts"
    if first is not None:
        mine, theirs = made[first].shape, wanted[first].shape
        if len(mine) and len(theirs) and mine[0] != theirs[0]:
            advice = "keep one answer per example, in the first dimension"
        elif len(mine) == len(theirs) and mine[:-1] == theirs[:-1]:
            advice = "give both the same width"
        else:
            advice = "return as many vectors as the encoder does"
    raise TrainingError(
        f"the predictor answers {shapes(prediction)} where the encoder says {shapes(target)} of the next state; "
        f"{advice}"
    )
