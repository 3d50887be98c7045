"""`hjepa extract`: fill feature stores."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from hjepa_eval.cli.console import print_json
from hjepa_eval.cli.options import settings_command
from hjepa_eval.evaluation.live.display import Stderr
from hjepa_eval.evaluation.settings import ExtractCommandSettings

if TYPE_CHECKING:
    from pathlib import Path

    from hjepa_eval.evaluation.features import FeatureSet
    from hjepa_eval.extraction.extract import ExtractedStores


def register(app: typer.Typer) -> None:
    """Add the command to the program."""

    @settings_command(app, "extract", ExtractCommandSettings)
    def run(settings: ExtractCommandSettings) -> None:
        """Store the features of every level.

        One forward pass over both splits fills the cache with every level and readout; --level picks what is listed
        and exported. Several processes split the work: start the command more than once, or with torchrun
        --nproc-per-node N -m hjepa_eval extract.
        """
        from hjepa_eval.evaluation.front import extract
        from hjepa_eval.machine.ranks import read_ranks

        first = read_ranks().rank == 0
        features = extract(settings=settings, talk=Stderr(quiet=settings.quiet, leader=first))
        if not first:
            return
        files = _export(features, settings)
        stores = _describe(features)
        if settings.as_json:
            print_json(stores)
            return
        for store in stores:
            how = "from the cache, no forward pass" if store["forward_images"] == 0 else f"{store['seconds']:.1f} s"
            skipped = f", {store['skipped']} unreadable left out" if store["skipped"] else ""
            view = f", view {store['view']}" if store["view"] else ""
            what = f"{store['split']}{view}, {store['readout']}"
            more = f" of the store's {store['stored_images']:,}" if store["stored_images"] != store["images"] else ""
            print(f"{what}: {store['images']:,}{more} images, {how}{skipped}\n  {store['folder']}")
        for level in features.levels:
            print(f"  level {level.index}: {level.name}, width {level.width}")
        for file in files:
            print(f"wrote {file}")


def _stores(features: FeatureSet) -> list[tuple[str, int | None, ExtractedStores]]:
    """Return split, view and extraction of every store: by readout, both splits, then the augmented views of train."""
    return [
        entry
        for each in (features, *features.others)
        for entry in (
            *((split, None, extraction) for split, extraction in each.splits.items()),
            *(("train", number, extraction) for number, extraction in enumerate(each.views, start=1)),
        )
    ]


def _export(features: FeatureSet, settings: ExtractCommandSettings) -> list[Path]:
    """Write the levels asked for to files of the format asked for, a folder per store."""
    if settings.export is None:
        return []
    from hjepa_eval.features.export import export_store

    files = []
    for split, view, extraction in _stores(features):
        name = f"{split}-{extraction.store.manifest.readout}" + (f"-view{view}" if view else "")
        levels = [level.index for level in features.levels]
        files += export_store(
            extraction.store, settings.out / name, levels=levels, kind=settings.export, limit=extraction.limit
        )
    return files


def _describe(features: FeatureSet) -> list[dict[str, object]]:
    """Return one entry per store; `view` is None for a plain one."""
    names = {level.index for level in features.levels}
    return [
        {
            "split": split,
            "view": view,
            "readout": extraction.store.manifest.readout,
            "folder": str(extraction.store.folder),
            "key": extraction.store.manifest.key,
            "images": len(extraction.store.index(limit=extraction.limit)),
            "stored_images": extraction.store.manifest.rows,
            "skipped": len(extraction.store.manifest.skipped),
            "forward_images": extraction.images,
            "seconds": round(extraction.seconds, 3),
            "levels": [
                {"level": level.index, "name": level.name, "width": level.width}
                for level in extraction.store.manifest.levels
                if level.index in names
            ],
        }
        for split, view, extraction in _stores(features)
    ]
