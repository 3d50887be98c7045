"""Levels of any kind of data: cells, masks that follow them, and a model without leaks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hjepa_pretrain.jepa.grids import Grid, cell_means, hide_cells, line
from hjepa_pretrain.jepa.tokens import TokenJEPA

from hjepa_eval.errors import ConfigError, TrainingError, UnknownNameError

SMALL = {"width": 16, "depth": 2, "num_heads": 2, "levels": 2}
TEXT = {
    "characters": torch.tensor([[72, 105, 32, 111, 110], [79, 107, 46, -1, -1]]),
    "words": torch.tensor([[0, 0, 0, 1, 1], [0, 0, 0, -1, -1]]),
    "sentences": torch.tensor([[0, 0, 0, 0, 0], [0, 0, 0, -1, -1]]),
}
STATES: dict[str, tuple[Any, dict[str, int]]] = {
    "series": (torch.randn(4, 32), {}),
    "text": (TEXT, {}),
    "tabular": ({"values": torch.randn(2, 3), "columns": torch.tensor([[0, 1, 2], [3, 4, -1]])}, {"columns": 5}),
    "image_text": (
        {"pixels": torch.randn(2, 1, 8, 8), "words": torch.tensor([[0, 1, 2], [3, -1, -1]])},
        {"vocabulary": 4},
    ),
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_cells__means_are_over_their_tokens_and_padding_has_none() -> None:
    tokens = torch.tensor([[[1.0], [3.0], [5.0], [100.0]]])
    means, share = cell_means(tokens, torch.tensor([[0, 0, 1, -1]]))
    assert means.flatten().tolist() == [2.0, 5.0]
    assert share.flatten().tolist() == [1.0, 1.0]
    shown = torch.tensor([[False, True, False, True]])
    means, share = cell_means(tokens, torch.tensor([[0, 0, 1, -1]]), shown)
    assert means[0, 0].item() == 3.0
    assert share.flatten().tolist() == [0.5, 0.0]


def test_masks__hide_whole_words_keep_and_hide_something_and_never_padding() -> None:
    grid = Grid([torch.where(TEXT["words"] >= 0, torch.arange(5), -1), TEXT["words"]])
    for seed in range(20):
        hidden = hide_cells(grid, 0, 0.5, generator=seeded(seed))
        assert hidden.sum(dim=1).tolist() == [2, 2]
        assert not (hidden & ~grid.valid).any()
    wide = line(64, 32, 3, device=torch.device("cpu"))
    hidden = hide_cells(wide, 2, 0.5, generator=seeded())
    assert (hidden.view(64, 8, 4).sum(dim=2) % 4 == 0).all()
    assert len({tuple(row) for row in hidden.tolist()}) > 32
    with pytest.raises(TrainingError, match="example 0 has 1 tokens"):
        hide_cells(Grid([torch.tensor([[0, -1]])]), 0, 0.5, generator=seeded())


@pytest.mark.rows("D5", "B10")
@pytest.mark.parametrize("kind", STATES)
def test_model__every_kind_learns_at_every_level(kind: str) -> None:
    state, arguments = STATES[kind]
    model = TokenJEPA(kind, **SMALL, **arguments).train()
    loss, terms = model.training_loss(state, generator=seeded())
    assert {"loss", "level_0", "level_1", "contrast"} <= set(terms)
    torch.autograd.backward(loss)
    for part in (*model.watched().values(), model.encoder.tokens):
        assert any(parameter.grad is not None and parameter.grad.any() for parameter in part.parameters())
    assert [level.shape[1:] for level in model.eval().levels(state)] == [(1, 16)] * 2


def test_model__what_is_hidden_changes_nothing_that_is_said() -> None:
    model = TokenJEPA("series", **SMALL).eval()
    series = torch.randn(2, 32, requires_grad=True)
    hidden = torch.zeros(2, 8, dtype=torch.bool)
    hidden[:, 2:5] = True
    outputs, grid = model.encoder(series, hidden)
    answers = model.predictor(outputs[-1], grid, hidden)
    (gradient,) = torch.autograd.grad(answers[0].sum() + outputs[-1][:, ~hidden[0]].sum(), series)
    patches = gradient.view(2, 8, 4).abs().sum(dim=2)
    assert (patches[:, 2:5] == 0).all()
    assert (patches[:, [0, 1, 5, 6, 7]] > 0).all()


def test_model__padding_of_a_batch_does_not_change_an_example() -> None:
    model = TokenJEPA("text", **SMALL).eval()
    both = model.levels(TEXT)
    alone = model.levels({key: value[1:, :3] for key, value in TEXT.items()})
    for one, other in zip(both, alone, strict=True):
        torch.testing.assert_close(one[1:], other)


def test_model__the_same_seed_gives_the_same_weights_and_bad_numbers_are_refused() -> None:
    first, second = TokenJEPA("series", **SMALL), TokenJEPA("series", **SMALL)
    assert all(torch.equal(one, two) for one, two in zip(first.parameters(), second.parameters(), strict=True))
    with pytest.raises(UnknownNameError, match="series"):
        TokenJEPA("serie")
    with pytest.raises(ConfigError, match="mask_level 3"):
        TokenJEPA("series", mask_level=3)
    with pytest.raises(ConfigError, match="num_heads 5"):
        TokenJEPA("series", num_heads=5)
    with pytest.raises(TrainingError, match=r"multiple of 4; found \[2, 30\]"):
        TokenJEPA("series").levels(torch.randn(2, 30))
