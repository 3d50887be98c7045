"""`hjepa masks`: what settings hide and show, before anything is trained."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from hjepa_eval.cli.console import guarded, print_json
from hjepa_eval.errors import ConfigError
from hjepa_eval.evaluation.live.display import Stderr
from hjepa_eval.report.formats.terminal import groups_that_fit

_UNLIMITED = 10_000
_COLUMNS = (
    "masks",
    "context",
    "fewest tokens",
    "all targets",
    "one block",
    "from - to",
    "overlap",
    "long/short",
    "whole cells per level",
)


def table_rows(kind: str, statistics: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Return a row of text per level of one kind of masks."""
    rows: list[tuple[str, ...]] = []
    for name, shares in statistics.items():
        low, high = shares["achieved_scale"]
        rows.append(
            (
                f"{kind}, {name.replace('_', ' ')}",
                f"{shares['context_coverage']:.1%}",
                str(shares["smallest_context"]),
                f"{shares['target_union']:.1%}",
                f"{shares['target_coverage']:.1%}",
                f"{low:.1%} - {high:.1%}",
                f"{shares['target_overlap']:.1%}",
                # Scattered tokens are no block with sides.
                "-" if kind == "random" else f"{shares['target_elongation']:.2f}",
                " / ".join(f"{cells:.2f}" for cells in shares["complete_cells"]),
            )
        )
    return rows


def print_table(rows: list[tuple[str, ...]], *, width: int) -> None:
    """Print rows under their headings in tables of at most `width` signs, the first column to the left in all."""
    rows = [_COLUMNS, *rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    groups = groups_that_fit([size + 2 for size in widths[1:]], width - widths[0])
    for number, group in enumerate(groups):
        if number:
            print()
        for row in rows:
            print("  ".join([row[0].ljust(widths[0]), *(row[1 + at].rjust(widths[1 + at]) for at in group)]))


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("masks")(guarded(masks))


def masks(
    config: Annotated[
        str,
        typer.Option("--config", help="YAML file or preset of hjepa pretrain, such as digits or cifar10_cpu_masked"),
    ] = "digits",
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="a setting, repeatable: masking.aligned=1"),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="picture of the kind that the settings name")] = Path("masks.png"),
    count: Annotated[int, typer.Option("--count", min=1, max=16, help="images to draw")] = 4,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="instead of the preset's train.seed")] = None,
    dataset: Annotated[str | None, typer.Option("--dataset", hidden=True)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the statistics as JSON")] = False,
) -> None:
    """Draw the masks of pretraining settings, of every kind, and say what they cover.

    The kind that the settings name goes to --out; the others, and all levels of hierarchical masks in one view, go
    beside it. Statistics are of 1,024 images.
    """
    if dataset is not None:
        raise ConfigError(f"masks are drawn without images, the same for any dataset; leave --dataset {dataset} out")
    from hjepa_pretrain.checks import load_settings
    from hjepa_pretrain.config.geometry import resolve_geometry
    from hjepa_pretrain.config.schedules import context_count
    from hjepa_pretrain.masks import preview_masks

    settings = load_settings(config, list(assignments or []))
    if settings.data.augmentation == "crops":
        raise ConfigError(f"{config} hides nothing: data.augmentation is crops, so there are no masks to draw")
    geometry = resolve_geometry(settings)
    tokens = context_count(settings.masking, geometry.num_patches, 0.0)
    previews = preview_masks(
        settings.masking,
        out.expanduser(),
        image_size=geometry.image_size,
        patch_size=geometry.patch_size,
        num_levels=settings.model.num_hierarchies,
        context_tokens=tokens,
        count=count,
        seed=settings.train.seed if seed is None else seed,
    )
    if as_json:
        kinds = {
            preview.kind: {"files": [str(path) for path in preview.files], "statistics": preview.statistics}
            for preview in previews
        }
        print_json({"type": settings.masking.type, "grid": geometry.grid, "context_tokens": tokens, "kinds": kinds})
        return
    if settings.masking.saliency:
        Stderr(quiet=False).note("masking.saliency needs a network and its images; these masks are drawn without it")
    rows, columns = geometry.grid
    print(f"{rows}x{columns} tokens; training sees {tokens} random ones of each image's context\n")
    # A log is as wide as its lines.
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() or "COLUMNS" in os.environ else _UNLIMITED
    print_table([row for preview in previews for row in table_rows(preview.kind, preview.statistics)], width=width)
    print()
    for preview in previews:
        print(f"{preview.kind}: {', '.join(map(str, preview.files))}")
