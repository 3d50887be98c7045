"""`hjepa demo`: from real images to a level-by-level table, with nothing to download."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Annotated

import typer

from hjepa_eval.cli.console import guarded
from hjepa_eval.errors import ConfigError
from hjepa_eval.evaluation.live.display import Stderr

FAST = ("train.minutes=0.1",)


def _make_room(out: Path) -> None:
    """Remove an earlier demo; refuse to touch anything else.

    Raises:
        ConfigError: the folder holds something that no demo made.
    """
    if out.exists() and not (out / "DEMO").is_file() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} is there and no earlier demo; name another folder with --out")
    try:
        if out.exists():
            shutil.rmtree(out)
        out.mkdir(parents=True, exist_ok=True)
        (out / "DEMO").write_text("Made by hjepa demo, which replaces this folder when it runs again.\n")
    except OSError as error:
        raise ConfigError(f"cannot write {out}: {error.strerror}; name another folder with --out") from None


def register(app: typer.Typer) -> None:
    """Add the command to the program."""

    @app.command("demo")
    @guarded
    def demo(
        seed: Annotated[int, typer.Option("--seed", help="of pretraining, held-out splits and episodes")] = 0,
        out: Annotated[
            Path, typer.Option("--out", help="folder for the run and its report; an earlier demo is replaced")
        ] = Path("runs/demo"),
        fast: Annotated[bool, typer.Option("--fast", help="a few seconds of pretraining, to see the road")] = False,
        open_report: Annotated[bool, typer.Option("--open", help="show the report in the browser at the end")] = False,
        quiet: Annotated[bool, typer.Option("--quiet", help="no progress and no notes; the table only")] = False,
    ) -> None:
        """From images to the table in minutes.

        Pretrains on scanned digits, measures every level against the same encoder untrained, k-means and raw pixels,
        reports.
        """
        from hjepa_eval.cli.commands.evaluate import evaluate_and_report
        from hjepa_eval.cli.pretraining import run_preset
        from hjepa_eval.evaluation.request import read_request
        from hjepa_eval.evaluation.settings import EvalSettings

        started = time.monotonic()
        talk = Stderr(quiet=quiet)
        if (out / "DEMO").is_file():
            talk.note(f"replacing the earlier demo in {out}")
        _make_room(out)
        run_preset("digits", [f"train.seed={seed}", *(FAST if fast else ())], run_dir=out, talk=talk)
        flags = {
            "model": str(out),
            "dataset": "digits",
            "baselines": ["random", "kmeans?size=8?patch=3", "pixels:8"],
            "seed": seed,
            **({"episodes": 200} if fast else {}),
            "out": out / "results",
            "quiet": quiet,
            "open": open_report,
            "map": "pca",  # UMAP, where it is installed, compiles for half a minute.
        }
        request = read_request(EvalSettings, flags=flags)
        notes = (
            f"the run is {out}; it was there after {time.monotonic() - started:.0f} s",
            "next: hjepa knn --dataset cifar10 --root FOLDER, or hjepa eval --model random:vit_tiny_patch4_32",
        )
        evaluate_and_report(request, talk, folder=out, notes=notes)
