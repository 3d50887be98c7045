"""Which tokens a probe needs: of which images, how many bytes, and whether the levels have any places."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hjepa_eval.datasets.protocol import ImageDataset
from hjepa_eval.datasets.subsets.parts import draw_part
from hjepa_eval.encoders.handle import EncoderHandle
from hjepa_eval.encoders.readouts import Level, check_readout
from hjepa_eval.errors import ProbeError, first_few
from hjepa_eval.evaluation.job import Talk
from hjepa_eval.extraction.budget import budget_of, check_disk
from hjepa_eval.extraction.passes import Compute

TOKENS = "tokens"


@dataclass(frozen=True)
class TokenNeed:
    """What a plan reads of tokens, which are large and so are of a part of the images where that is asked for.

    Attributes:
        readouts: `tokens`, and what else is read of the same images.
        images: train images at most, drawn by the seed; None for all.
        beside: by name, what makes further images of the test images, whose tokens are read too.
        places: whether a level of a single cell is of no use.
        maps: what must be known of the images' pixels.
    """

    readouts: tuple[str, ...] = ("tokens",)
    images: int | None = None
    beside: Mapping[str, Callable[[ImageDataset], ImageDataset]] = field(default_factory=dict)
    places: bool = False
    maps: tuple[str, ...] = ()


def join_needs(needs: Sequence[TokenNeed | None]) -> TokenNeed | None:
    """Return what several probes need together; they share the option that says how many images."""
    known = [need for need in needs if need is not None]
    if not known:
        return None
    return TokenNeed(
        readouts=tuple(dict.fromkeys(readout for need in known for readout in need.readouts)),
        images=known[0].images,
        beside={name: make for need in known for name, make in need.beside.items()},
        places=any(need.places for need in known),
        maps=tuple(dict.fromkeys(name for need in known for name in need.maps)),
    )


class WantedTokens:
    """The tokens that are wanted: in the same pass as other features where they are of the same images."""

    def __init__(
        self,
        need: TokenNeed | None,
        images: Mapping[str, ImageDataset],
        readouts: Sequence[str],
        *,
        levels: Sequence[Level],
        seed: int,
    ) -> None:
        """Take what a plan needs, and what is extracted beside it.

        Raises:
            ProbeError: a level has no places, or the images no maps, where they are needed.
            DataError: nothing is known of the images' pixels.
            EncoderError: a level lacks what a readout reads.
        """
        self.readouts = () if need is None else need.readouts
        self.images: dict[str, ImageDataset] = dict(images)
        self._plain = tuple(readouts)
        self.beside: dict[str, ImageDataset] = {}
        self.parted = False
        if need is None:
            return
        for readout in need.readouts:
            check_readout(readout, levels)
        if need.places:
            check_places(levels)
        for name in need.maps:
            for dataset in images.values():
                check_maps(dataset, name)
        if need.images is not None:
            self.images["train"] = draw_part(images["train"], need.images, seed=seed)
        self.parted = self.images["train"] is not images["train"]
        self.beside = {name: make(images["test"]) for name, make in need.beside.items()}

    @property
    def together(self) -> tuple[str, ...]:
        """Readouts of the pass over all images."""
        return (*self._plain, *(() if self.apart else self.readouts))

    @property
    def apart(self) -> bool:
        """Whether tokens are of other images than the rest, and so have passes of their own."""
        return bool(self.readouts) and self.parted

    @property
    def others(self) -> dict[str, ImageDataset]:
        """Images of the passes for tokens alone, by name."""
        return {**(self.images if self.apart else {}), **self.beside}

    def say(self, encoder: EncoderHandle, how: Compute, cache_dir: Path, talk: Talk) -> None:
        """Say how many bytes will be written, before any are.

        Raises:
            StoreError: they do not fit on the disk.
        """
        if TOKENS in (*self._plain, *self.readouts):
            datasets = [*self.images.values(), *self.beside.values()]
            budget = budget_of(encoder, datasets, TOKENS, cache_dir=cache_dir, settings=how)
            check_disk(budget, cache_dir)
            if budget.lacking:
                talk.note(f"{encoder.name}: {budget.sentence(TOKENS)}")


def check_places(levels: Sequence[Level]) -> None:
    """Check that every level has more than one cell: a single token per image has no place in it.

    Raises:
        ProbeError: a level has one; the message says which levels are left.
    """
    single = [level for level in levels if level.grid == (1, 1)]
    if not single:
        return
    left = [str(level.index) for level in levels if level.grid != (1, 1)]
    what = f"leave it out with --level {','.join(left)}" if left else "take an encoder with a grid of tokens"
    raise ProbeError(
        f"level {single[0].index} ({single[0].name}) has one token per image, which says nothing about places; {what}"
    )


def check_maps(images: ImageDataset, name: str) -> None:
    """Check that a data set knows something of its pixels, by its first image.

    Raises:
        ProbeError: there is no such map, or it does not fit the image.
        DataError: nothing is known of the pixels.
    """
    known = images.maps(0)
    if name not in known:
        raise ProbeError(f"{images.name} has no map of {name}; it has {first_few(known)}")
    height, width = images.image(0).shape[1:]
    if known[name].shape != (height, width):
        rows, columns = known[name].shape
        raise ProbeError(
            f"the map of {name} of {images.source_name(0)} is {rows} x {columns}, its image {height} x {width}; "
            "every mask must be as large as its image"
        )
