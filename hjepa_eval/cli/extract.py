"""`hjepa extract`: fill feature stores."""

from __future__ import annotations

import typer

from hjepa_eval.cli.console import Talk, print_json
from hjepa_eval.cli.options import settings_command
from hjepa_eval.cli.settings import ExtractionSettings


def register(app: typer.Typer) -> None:
    """Add the command to the program."""

    @settings_command(app, "extract", ExtractionSettings)
    def extract(settings: ExtractionSettings) -> None:
        """Store the features of every level.

        One forward pass over both splits fills the cache; --level picks what is listed.
        """
        from hjepa_eval.cli.workflow import collect_features, resolve

        features = collect_features(resolve(settings), Talk(quiet=settings.quiet), repair=True)
        stores = [
            {
                "split": split,
                "folder": str(found.store.folder),
                "key": found.store.manifest.key,
                "images": found.store.manifest.rows,
                "skipped": len(found.store.manifest.skipped),
                "forward_images": found.images,
                "seconds": round(found.seconds, 3),
                "levels": [
                    {"level": level.index, "name": level.name, "width": level.width} for level in features.levels
                ],
            }
            for split, found in features.splits.items()
        ]
        if settings.as_json:
            print_json(stores)
            return
        for store in stores:
            how = "from the cache, no forward pass" if store["forward_images"] == 0 else f"{store['seconds']:.1f} s"
            skipped = f", {store['skipped']} unreadable images skipped" if store["skipped"] else ""
            print(f"{store['split']}: {store['images']:,} images, {how}{skipped}\n  {store['folder']}")
        for level in features.levels:
            print(f"  level {level.index}: {level.name}, width {level.width}")
