"""From data to tokens: a tokeniser per kind gives vectors and the grid that they lie on."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hjepa_eval.errors import TrainingError
from hjepa_pretrain.jepa.encoders import sequence_positions
from hjepa_pretrain.jepa.grids import Grid, line


class Tokeniser(nn.Module):
    """Parent of all kinds.

    Attributes:
        names: what the cells of each level are, finest first.
    """

    names: tuple[str, ...]

    @abstractmethod
    def forward(self, state: Any) -> tuple[Tensor, Grid]:
        """Return tokens `[B, N, D]` with their positions, and their grid."""

    def changed(self, state: Any, generator: torch.Generator) -> Any:
        """Return a changed copy of a state that means the same; the state itself where nothing is known to."""
        return state


class SeriesTokens(Tokeniser):
    """Patches of a series of one channel, `[B, T]`; level l holds 2^l patches."""

    def __init__(self, width: int, *, levels: int, patch: int = 4) -> None:
        """Cut series into patches of `patch` steps."""
        super().__init__()
        self.patch, self.levels = patch, levels
        self.embed = nn.Linear(patch, width)
        self.names = tuple(f"{patch * 2**level} steps" for level in range(levels))

    def forward(self, state: Tensor) -> tuple[Tensor, Grid]:
        """Return a token per patch.

        Raises:
            TrainingError: the patch does not divide the series.
        """
        if state.ndim != 2 or state.shape[1] % self.patch:
            raise TrainingError(f"series are [B, T] with T a multiple of {self.patch}; found {list(state.shape)}")
        tokens = self.embed(state.reshape(len(state), -1, self.patch))
        count = tokens.shape[1]
        placed = tokens + sequence_positions(count, tokens.shape[2], tokens.device)
        return placed, line(len(state), count, self.levels, device=state.device)

    def changed(self, state: Tensor, generator: torch.Generator) -> Tensor:
        """Return series scaled and with noise, by a tenth of their deviation each."""
        scale = 1 + 0.1 * torch.randn(len(state), 1, generator=generator)
        noise = 0.1 * torch.randn(state.shape, generator=generator)
        changed: Tensor = state * scale.to(state.device) + noise.to(state.device)
        return changed


class TextTokens(Tokeniser):
    """Characters, words and sentences: `{"characters", "words", "sentences"}`, int64 `[B, T]`, -1 for padding."""

    names: tuple[str, ...] = ("characters", "words", "sentences")

    def __init__(self, width: int, *, levels: int = 3, alphabet: int = 128) -> None:
        """Embed characters of an `alphabet` of so many."""
        super().__init__()
        self.levels = levels
        self.embed = nn.Embedding(alphabet + 1, width, padding_idx=alphabet)
        self.alphabet = alphabet
        self.names = self.names[:levels]

    def forward(self, state: Mapping[str, Tensor]) -> tuple[Tensor, Grid]:
        """Return a token per character."""
        characters, valid = state["characters"], state["characters"] >= 0
        tokens = self.embed(torch.where(valid, characters, self.alphabet))
        tokens = tokens + sequence_positions(tokens.shape[1], tokens.shape[2], tokens.device)
        places = torch.arange(tokens.shape[1], device=tokens.device).expand_as(characters)
        cells = [torch.where(valid, places, -1), state["words"], state["sentences"]]
        return tokens, Grid(cells[: self.levels])


class ColumnTokens(Tokeniser):
    """A row of a table, a token per column: `{"values" [B, F], "columns" int64 [B, F]}`, column -1 for padding.

    Columns are a set: positions are those of their own embeddings. Level l holds 2^l neighbours of the table.
    """

    def __init__(self, width: int, *, levels: int, columns: int) -> None:
        """Embed values of so many `columns`, over all tables."""
        super().__init__()
        self.levels = levels
        self.slope = nn.Embedding(columns, 2 * width)
        self.column = nn.Embedding(columns, width)
        self.out = nn.Linear(2 * width, width)
        self.names = tuple(f"{2**level} columns" for level in range(levels))

    def forward(self, state: Mapping[str, Tensor]) -> tuple[Tensor, Grid]:
        """Return a token per column."""
        columns, values = state["columns"], state["values"]
        valid, index = columns >= 0, columns.clamp(min=0)
        waves = values.unsqueeze(-1) * self.slope(index)
        half = waves.shape[-1] // 2
        tokens = self.out(torch.cat((waves[..., :half].sin(), waves[..., half:]), dim=-1)) + self.column(index)
        places = torch.arange(columns.shape[1], device=columns.device).expand_as(columns)
        return tokens, Grid([torch.where(valid, places // 2**level, -1) for level in range(self.levels)])

    def changed(self, state: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Return rows with noise of a tenth of each column's deviation."""
        noise = 0.1 * torch.randn(state["values"].shape, generator=generator)
        return {**state, "values": state["values"] + noise.to(state["values"].device)}


class CaptionedTokens(Tokeniser):
    """Patches of a picture beside the words of its caption: `{"pixels" [B, C, H, H], "words" int64 [B, T]}`.

    Level 0 has patches and words, level 1 quarters of the picture and pairs of words, level 2 picture and caption.
    """

    names: tuple[str, ...] = ("patches and words", "quarters and pairs of words", "picture and caption")

    def __init__(
        self, width: int, *, levels: int = 3, channels: int = 1, side: int = 8, patch: int = 2, vocabulary: int = 64
    ) -> None:
        """Cut pictures of `channels` and `side` pixels into patches of `patch`, and embed a `vocabulary` of words."""
        super().__init__()
        self.rows, self.levels = side // patch, levels
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        self.place = nn.Parameter(0.02 * torch.randn(1, self.rows**2, width))
        self.words = nn.Embedding(vocabulary, width)
        self.kind = nn.Parameter(0.02 * torch.randn(2, width))
        self.names = self.names[:levels]

    def forward(self, state: Mapping[str, Tensor]) -> tuple[Tensor, Grid]:
        """Return a token per patch, then one per word."""
        seen = self.patches(state["pixels"]).flatten(2).transpose(1, 2) + self.place + self.kind[0]
        words, valid = state["words"], state["words"] >= 0
        read = self.words(words.clamp(min=0)) + self.kind[1]
        read = read + sequence_positions(words.shape[1], seen.shape[2], seen.device)
        places = torch.arange(self.rows, device=words.device)
        half = (places * 2 // self.rows).clamp(max=1)
        quarters = (half.unsqueeze(1) * 2 + half).flatten()
        order = torch.arange(words.shape[1], device=words.device).expand_as(words)
        counts = (self.rows**2, 4, 1)
        pictures = (torch.arange(counts[0], device=words.device), quarters, torch.zeros_like(quarters))
        texts = (order, order // 2, torch.zeros_like(order))
        cells = [
            torch.cat((picture.expand(len(words), -1), torch.where(valid, count + text, -1)), dim=1)
            for picture, text, count in zip(pictures, texts, counts, strict=True)
        ]
        return torch.cat((seen, read), dim=1), Grid(cells[: self.levels])


# To add a kind: a class above, and a line here.
TOKENISERS: Mapping[str, type[Tokeniser]] = {
    "series": SeriesTokens,
    "text": TextTokens,
    "tabular": ColumnTokens,
    "image_text": CaptionedTokens,
}
