"""`hjepa extract`: fill feature stores."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from hjepa_eval.cli.console import Talk, print_json
from hjepa_eval.cli.options import settings_command
from hjepa_eval.cli.settings import ViewSettings

if TYPE_CHECKING:
    from hjepa_eval.cli.workflow import Features


def register(app: typer.Typer) -> None:
    """Add the command to the program."""

    @settings_command(app, "extract", ViewSettings)
    def extract(settings: ViewSettings) -> None:
        """Store the features of every level.

        One forward pass over both splits fills the cache; --level picks what is listed. --views N stores N augmented
        passes over the train images beside the plain one.
        """
        from hjepa_eval.cli.workflow import collect_features, resolve

        features = collect_features(resolve(settings), Talk(quiet=settings.quiet), repair=True)
        stores = _describe(features)
        if settings.as_json:
            print_json(stores)
            return
        for store in stores:
            how = "from the cache, no forward pass" if store["forward_images"] == 0 else f"{store['seconds']:.1f} s"
            skipped = f", {store['skipped']} unreadable images skipped" if store["skipped"] else ""
            view = f", view {store['view']}" if store["view"] else ""
            print(f"{store['split']}{view}: {store['images']:,} images, {how}{skipped}\n  {store['folder']}")
        for level in features.levels:
            print(f"  level {level.index}: {level.name}, width {level.width}")


def _describe(features: Features) -> list[dict[str, object]]:
    """Return one entry per store: both splits, then the augmented views of train; `view` is None for a plain one."""
    plain = [(split, None, extraction) for split, extraction in features.splits.items()]
    views = [("train", number, extraction) for number, extraction in enumerate(features.views, start=1)]
    levels = [{"level": level.index, "name": level.name, "width": level.width} for level in features.levels]
    return [
        {
            "split": split,
            "view": view,
            "folder": str(extraction.store.folder),
            "key": extraction.store.manifest.key,
            "images": extraction.store.manifest.rows,
            "skipped": len(extraction.store.manifest.skipped),
            "forward_images": extraction.images,
            "seconds": round(extraction.seconds, 3),
            "levels": levels,
        }
        for split, view, extraction in [*plain, *views]
    ]
