"""`hjepa export`: a run's encoder for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hjepa_eval.cli.console import guarded, print_json
from hjepa_eval.evaluation.live.display import Stderr


def register(app: typer.Typer) -> None:
    """Add the command to the program."""

    @app.command("export")
    @guarded
    def export(
        run: Annotated[Path, typer.Argument(help="folder of a pretraining run, or of one of its checkpoints")],
        out: Annotated[Path | None, typer.Option("--out", help="new folder; exports/RUN-FORMAT when not given")] = None,
        kind: Annotated[
            str,
            typer.Option(
                "--format",
                metavar="[timm|onnx|torch]",
                help="timm: weights that timm loads; onnx, torch: a graph from images to the tokens of all levels",
            ),
        ] = "timm",
        encoder: Annotated[
            str,
            typer.Option(
                "--encoder", metavar="[target|context]", help="the moving average, or the trained encoder itself"
            ),
        ] = "target",
        dtype: Annotated[
            str, typer.Option("--dtype", metavar="[fp32|fp16]", help="of weights; in a graph of images and tokens too")
        ] = "fp32",
        quiet: Annotated[bool, typer.Option("--quiet", help="no notes")] = False,
        as_json: Annotated[bool, typer.Option("--json", help="print what was written as JSON")] = False,
    ) -> None:
        """Write a run's encoder for other programs.

        Beside the weights lies a README.md that says how they were trained, what was measured, and how to load them.
        """
        from hjepa_eval.encoders.export.export import export_name, export_run

        run = run.expanduser()
        folder = Path("exports") / f"{export_name(run)}-{kind}" if out is None else out.expanduser()
        Stderr(quiet=quiet).note(f"exporting the {encoder} encoder of {run} to {folder}")
        files = export_run(run, folder, kind=kind, branch=encoder, dtype=dtype)
        sizes = {file.name: file.stat().st_size for file in files}
        if as_json:
            print_json({"folder": str(folder), "format": kind, "encoder": encoder, "dtype": dtype, "bytes": sizes})
            return
        for name, size in sizes.items():
            print(f"{folder / name}  {size / 1e6:,.2f} MB")
        if kind == "timm":
            print(f"next: hjepa eval --model timm:local-dir:{folder}")
