"""`hjepa import`: features that another program computed, as a model that every probe and report takes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hjepa_eval.cli.console import guarded, print_json

if TYPE_CHECKING:
    from hjepa_eval.features.imported import Imported


def register(app: typer.Typer) -> None:
    """Add the command to the program."""

    @app.command("import")
    @guarded
    def import_(
        files: Annotated[
            list[Path], typer.Argument(help=".npz, .npy, .safetensors, .parquet, or a folder that hjepa extract wrote")
        ],
        name: Annotated[str, typer.Option("--name", help="the model is then features:NAME")],
        labels: Annotated[
            list[Path] | None, typer.Option("--labels", help=".npy or .txt (one a line), repeatable: train_labels.npy")
        ] = None,
        ids: Annotated[
            list[Path] | None, typer.Option("--ids", help="the same of the images' names: train_ids.txt")
        ] = None,
        classes: Annotated[
            Path | None, typer.Option("--classes", help="text file, the name of class 0, then of class 1, ...")
        ] = None,
        dataset: Annotated[str, typer.Option("--dataset", help="what reports call the images")] = "imported",
        replace: Annotated[bool, typer.Option("--replace", help="let a name lead to these instead")] = False,
        cache_dir: Annotated[
            Path | None, typer.Option("--cache-dir", envvar="HJEPA_CACHE", help="folder of stores; else ~/.cache/hjepa")
        ] = None,
        as_json: Annotated[bool, typer.Option("--json", help="print what was made as JSON")] = False,
    ) -> None:
        """Bring your own features, as a model for every probe.

        Probes, comparisons and reports take them as --model features:NAME. One array [N, D] per level and split, called
        train_level0, test_level0, train_level1, ...; with one level train and test will do. Labels, [N] whole numbers
        from 0 or class names: train_labels, test_labels. If you like, train_ids, test_ids (names of the images) and
        class_names. In .npz and .safetensors these are the arrays' names, of .npy and .txt the files'; in .parquet the
        columns level0, level1, ... (lists), label, name and class, and the file's or folder's name says the split
        (train.parquet). Test may be absent: hjepa knn --leave-one-out needs none.
        """
        from hjepa_eval.evaluation.models.imported import import_features

        imported = import_features(
            files,
            name=name,
            labels=labels or (),
            ids=ids or (),
            classes=classes,
            dataset=dataset,
            cache_dir=cache_dir,
            replace=replace,
        )
        _say(imported, as_json=as_json)


def _say(imported: Imported, *, as_json: bool) -> None:
    """Print what was made."""
    manifests = {split: store.manifest for split, store in imported.stores.items()}
    if as_json:
        stores = {
            split: {"folder": str(store.folder), "key": store.manifest.key, "images": store.manifest.rows}
            for split, store in imported.stores.items()
        }
        print_json({"model": imported.name, "stores": stores, "classes": len(manifests["train"].class_names)})
        return
    for split, manifest in manifests.items():
        print(f"{split}: {manifest.rows:,} images of {len(manifest.class_names)} classes")
    for level in manifests["train"].levels:
        print(f"  level {level.index}: width {level.width}")
    print(f"{imported.name}  next: hjepa eval --model {imported.name}")
