"""What holds of the order of batches for any numbers of images, batch sizes, ranks, parts and steps."""

from __future__ import annotations

import torch
from hjepa_pretrain.data.batches import MOST_HELD_OUT, BatchOrder, split_images
from hypothesis import given
from hypothesis import strategies as st


@st.composite
def orders(draw: st.DrawFn) -> tuple[torch.Tensor, dict[str, int]]:
    """Positions of images, and how they are shared: batch size, parts, ranks and seed."""
    ranks, parts = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    batch_size = ranks * parts * draw(st.integers(1, 5))
    positions = torch.tensor(sorted(draw(st.sets(st.integers(0, 500), min_size=batch_size, max_size=200))))
    return positions, {"batch_size": batch_size, "parts": parts, "ranks": ranks, "seed": draw(st.integers(0, 9))}


def order_of(positions: torch.Tensor, shared: dict[str, int], *, rank: int = 0, **changes: int) -> BatchOrder:
    how = {**shared, **changes}
    batch_size = how.pop("batch_size")
    return BatchOrder(positions, batch_size, rank=rank, **how)


@given(made=orders(), epoch=st.integers(0, 3))
def test_batches__an_epoch_has_no_image_twice_and_only_those_given(made: tuple, epoch: int) -> None:
    positions, shared = made
    order = order_of(positions, shared)
    steps = range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
    images = torch.cat([order.whole(step) for step in steps]).tolist()
    assert len(images) == len(set(images)) == order.steps_per_epoch * shared["batch_size"]
    assert set(images) <= set(positions.tolist())
    assert len(positions) - len(images) < shared["batch_size"]


@given(made=orders(), step=st.integers(0, 400))
def test_batches__ranks_share_each_part_of_a_batch_without_rest(made: tuple, step: int) -> None:
    positions, shared = made
    ranks, parts = shared["ranks"], shared["parts"]
    whole = order_of(positions, shared).whole(step).view(parts, -1)
    own = [order_of(positions, shared, rank=rank).indices(step).view(parts, -1) for rank in range(ranks)]
    assert torch.equal(torch.cat(own, dim=1), whole)
    alone = order_of(positions, shared, ranks=1).indices(step)
    assert torch.equal(alone, whole.flatten())


@given(made=orders(), steps=st.lists(st.integers(0, 400), min_size=1, max_size=8))
def test_batches__a_step_has_the_same_images_whatever_was_asked_before(made: tuple, steps: list[int]) -> None:
    positions, shared = made
    asked = order_of(positions, shared)
    for step in steps:
        assert torch.equal(asked.indices(step), order_of(positions, shared).indices(step))


@given(count=st.integers(0, 60_000), share=st.floats(0, 1))
def test_split__every_image_is_either_trained_on_or_held_out(count: int, share: float) -> None:
    split = split_images(count, share)
    assert torch.equal(torch.cat((split.trained, split.held_out)).sort().values, torch.arange(count))
    assert len(split.held_out) == min(MOST_HELD_OUT, int(count * share))
    for part in (split.trained, split.held_out):
        assert torch.equal(part, part.sort().values)
