"""`hjepa attention`: a page in which images, blocks, heads and patches can be chosen, to see what attends to what."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import typer

from hjepa_eval.cli.console import open_page, print_json
from hjepa_eval.cli.options import settings_command
from hjepa_eval.errors import ConfigError, DataError, EncoderError, ResultError, first_few
from hjepa_eval.evaluation.job import Talk
from hjepa_eval.evaluation.live.display import Stderr
from hjepa_eval.evaluation.settings import AttentionSettings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from hjepa_eval.datasets.protocol import ImageDataset
    from hjepa_eval.encoders.protocol import Encoder
    from hjepa_eval.report.page.attention import Explorer, ShownImage, ShownLevel

    # an image with its attention, the numbers of its blocks, and how many heads they have
    Shown: TypeAlias = tuple[ShownImage, tuple[int, ...], int]


def register(app: typer.Typer) -> None:
    """Add the command to the program."""

    @settings_command(app, "attention", AttentionSettings)
    def attention(settings: AttentionSettings) -> None:
        """Write a page to explore the attention of a ViT.

        One file that opens without a server: choose an image, a block, a head, and the patch that asks; attention
        rollout and the cells of the levels are in it.
        """
        from hjepa_eval.encoders.attention import check_attention
        from hjepa_eval.evaluation.features import choose_levels
        from hjepa_eval.evaluation.models.given import find_encoder, load_split, resolve

        if settings.out.is_dir():
            raise ResultError(f"--out {settings.out} is a folder; name a file such as {settings.out / 'explorer.html'}")
        settings = resolve(settings)
        talk = Stderr(quiet=settings.quiet)
        encoder = find_encoder(settings).build()
        check_attention(encoder)
        dataset = load_split(settings, settings.split)
        indices = choose_images(settings, dataset)
        levels = choose_levels(encoder, settings.level)
        images = _images(encoder, dataset, indices=indices, settings=settings, talk=talk)
        empty = _empty(encoder, dataset, settings=settings, levels=levels)
        explorer = collect(images, empty, max_mb=settings.max_mb, wanted=len(indices))
        for note in explorer.notes:
            talk.note(note)
        _say(explorer, write_page(explorer, settings.out), settings)


def choose_images(settings: AttentionSettings, dataset: ImageDataset) -> list[int]:
    """Return the places of the images asked for; the first of a data set's order are balanced over classes.

    Raises:
        DataError: `--index` names one that is not there.
    """
    count = min(len(dataset), settings.max_samples or len(dataset))
    beyond = [index for index in settings.index if index >= count]
    if beyond:
        raise DataError(
            f"--index {first_few(beyond)}: {dataset.name} {dataset.split} has {count:,} images here, "
            f"numbered 0 to {count - 1}"
        )
    return list(dict.fromkeys(settings.index)) or list(range(min(settings.images, count)))


def _empty(encoder: Encoder, dataset: ImageDataset, *, settings: AttentionSettings, levels: Sequence[int]) -> Explorer:
    """Return the explorer without images; blocks and heads are known once an image went through."""
    from hjepa_eval.report.page.attention import Explorer
    from hjepa_eval.results.provenance import make_provenance

    made = make_provenance(seed=settings.seed, device=settings.device, settings={}, seconds={})
    versions = ", ".join(f"{name} {number}" for name, number in made.versions.items())
    return Explorer(
        model=encoder.name,
        dataset=dataset.name,
        split=dataset.split,
        image_size=encoder.transform.size,
        grid=encoder.levels[0].grid,
        prefix_names=encoder.name_prefix(),
        blocks=(),
        heads=0,
        levels=_cells(encoder, levels),
        images=(),
        command=made.command,
        made_with=f"Seed {made.seed}, {settings.precision} on {made.device}; {versions}.",
        notes=tuple(dataset.notes),
    )


def _cells(encoder: Encoder, levels: Sequence[int]) -> tuple[ShownLevel, ...]:
    """Return the levels whose cells are 2^level x 2^level tokens of level 0; a user's own encoder may have others."""
    from hjepa_eval.encoders.vit import cells
    from hjepa_eval.report.page.attention import ShownLevel

    grid = encoder.levels[0].grid
    return tuple(
        ShownLevel(level.index, level.name, 2**level.index)
        for level in encoder.levels
        if level.index in levels and cells(grid, level.index) == level.grid
    )


def _images(
    encoder: Encoder, dataset: ImageDataset, *, indices: Sequence[int], settings: AttentionSettings, talk: Talk
) -> Iterator[Shown]:
    """Yield each image with its attention, the numbers of its blocks, and how many heads they have.

    Raises:
        EncoderError: its attention cannot be shown, or it has no such block.
        DataError: an image cannot be read.
    """
    import torch

    from hjepa_eval.datasets.images import image_batches
    from hjepa_eval.encoders.attention import attention_maps
    from hjepa_eval.evaluation.models.given import default_workers
    from hjepa_eval.machine.devices import float32_products

    device = torch.device(settings.device)
    encoder.to(device).eval()
    batches = image_batches(
        dataset,
        encoder.transform,
        indices=indices,
        batch_size=settings.batch_size,
        workers=settings.num_workers or default_workers(),
        skip_bad=settings.on_bad_image == "skip",
    )
    for batch, kept, skipped in batches:
        for reason in skipped.values():
            talk.note(f"left out: {reason}")
        if not kept:
            continue
        pixels = encoder.transform.normalise(batch.to(device))
        bf16 = settings.precision == "bf16"
        with float32_products(settings.precision), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            maps = attention_maps(encoder, pixels).numpy()
        blocks = choose_blocks(settings.layers, len(maps), name=encoder.name)
        for place, index in enumerate(kept):
            image = _pack(batch[place], maps[:, place], dataset=dataset, index=index, blocks=blocks)
            yield image, blocks, maps.shape[2]


def _pack(
    image: Tensor, attention: NDArray[np.float32], *, dataset: ImageDataset, index: int, blocks: Sequence[int]
) -> ShownImage:
    """Return a uint8 image `[3, S, S]` with some blocks of its attention `[layers, heads, T, T]` and their rollout."""
    from torchvision.io import encode_png

    from hjepa_eval.encoders.attention import attention_rollout
    from hjepa_eval.report.page.attention import show_image

    held = [block - 1 for block in blocks]
    picture = encode_png(image).numpy().tobytes()
    # A rollout goes through all blocks before it, whether or not the page holds them.
    rollout = attention_rollout(attention)[held]
    return show_image(
        index,
        dataset.class_names[dataset.labels[index]],
        picture=picture,
        attention=attention[held],
        rollout=rollout,
        name=dataset.source_name(index),
    )


def choose_blocks(wanted: Sequence[int], depth: int, *, name: str) -> tuple[int, ...]:
    """Return the wanted blocks in order, all of them for none.

    Raises:
        EncoderError: the encoder does not compute one of them.
    """
    beyond = [block for block in wanted if block > depth]
    if beyond:
        raise EncoderError(
            f"--layers {first_few(beyond)}: {name} computes blocks 1 to {depth}, up to its deepest level; "
            "name some of those, or all"
        )
    return tuple(sorted(set(wanted))) or tuple(range(1, depth + 1))


def collect(images: Iterable[Shown], empty: Explorer, *, max_mb: float, wanted: int) -> Explorer:
    """Return the explorer with as many of the images, from the first on, as fit into the file.

    Raises:
        ConfigError: not even one fits.
        DataError: no image can be read.
    """
    from hjepa_eval.report.page.attention import attention_page

    limit, used = max_mb * 1e6, 0
    explorer, largest = empty, 0
    taken: list[ShownImage] = []
    for image, blocks, heads in images:
        if not taken:
            explorer = replace(empty, blocks=blocks, heads=heads)
            used = len(attention_page(explorer).encode(errors="replace")) + 1000  # a note that images were left out
        largest = max(largest, image.size)
        if used + image.size > limit:
            if not taken:
                need = (used + image.size) / 1e6
                raise ConfigError(
                    f"--max-mb {max_mb:g}: the page with one image takes {need:.2f} MB; "
                    "raise it, or hold fewer blocks with --layers"
                )
            left = (
                f"{len(taken)} of {wanted} images are shown: each takes {largest / 1e6:.2f} MB, and the file may have "
                f"{max_mb:g}; raise --max-mb, or hold fewer blocks with --layers"
            )
            return replace(explorer, images=tuple(taken), notes=(*empty.notes, left))
        used += image.size
        taken.append(image)
    if not taken:
        raise DataError("none of the images can be read; choose others with --index")
    return replace(explorer, images=tuple(taken))


def write_page(explorer: Explorer, out: Path) -> int:
    """Write the page and return its size in bytes.

    Raises:
        ResultError: the file cannot be written; no part of it is left.
    """
    from hjepa_eval.report.formats.named import write_output
    from hjepa_eval.report.page.attention import attention_page

    return write_output(out, attention_page(explorer)).stat().st_size


def _say(explorer: Explorer, size: int, settings: AttentionSettings) -> None:
    """Print what was written, and open it when asked to."""
    if settings.as_json:
        shown = [image.index for image in explorer.images]
        names = [image.name for image in explorer.images]
        about = {name: getattr(explorer, name) for name in ("blocks", "heads", "grid", "prefix", "notes")}
        print_json({"file": str(settings.out), "bytes": size, "images": shown, "names": names, **about})
    else:
        numbers = {"image": len(explorer.images), "block": len(explorer.blocks), "head": explorer.heads}
        images, blocks, heads = (f"{count} {what}{'s' * (count != 1)}" for what, count in numbers.items())
        print(f"{settings.out}  {size / 1e6:,.2f} MB: {images}, {blocks} of {heads}")
    if settings.open_browser:
        open_page(settings.out)
