"""The program `hjepa`. One file per command; nothing heavy is imported before a command runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer
from hjepa_pretrain.cli import masks, pretrain

from hjepa_eval import __version__
from hjepa_eval.cli.commands import (
    attention,
    cache,
    compare,
    demo,
    doctor,
    evaluate,
    export,
    extract,
    finetune,
    listings,
    report,
)
from hjepa_eval.cli.console import NO_READER, StdoutError, checked_stdout, say_error
from hjepa_eval.evaluation.plans import few_shot as fewshot
from hjepa_eval.evaluation.plans import knn, linear
from hjepa_eval.evaluation.plans import low_shot as lowshot

app = typer.Typer(
    name="hjepa",
    help="What does each level of a hierarchical vision encoder know?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # Plain help starts in two thirds of the time.
    context_settings={"help_option_names": ["-h", "--help"]},
)

# The parent of typer's own errors; releases differ in where they keep it.
_UsageProblem: type[Exception] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"hjepa {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="show the version and exit")
    ] = False,
) -> None:
    pass


_COMMANDS = (
    demo,
    pretrain,
    export,
    masks,
    extract,
    knn,
    linear,
    fewshot,
    lowshot,
    finetune,
    evaluate,
    report,
    attention,
    compare,
    cache,
    listings,
    doctor,
)
for module in _COMMANDS:
    module.register(app)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the program and exit: 0 when all went well, 2 for what the user can mend, 130 after Ctrl-C.

    Where the reader of stdout has gone, as `head` does, the program ends in silence with 141.
    """
    # OpenMP reads this when torch is loaded. Its default, to wait in a busy loop, made training on two cores thirty
    # times slower as soon as another program ran (measured: 12 against 367 images/s).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        with checked_stdout():
            code = app(args=None if arguments is None else list(arguments), prog_name="hjepa", standalone_mode=False)
    except StdoutError as error:
        if isinstance(error.__cause__, BrokenPipeError):
            sys.exit(NO_READER)
        say_error(str(error))
        sys.exit(2)
    except _UsageProblem as error:
        text = error.format_message() if hasattr(error, "format_message") else str(error)
        if type(error).__name__ == "NoArgsIsHelpError":
            print(text, file=sys.stderr)
        else:
            say_error(f"{text} (hjepa COMMAND --help shows what there is)")
        sys.exit(getattr(error, "exit_code", 2))
    sys.exit(code if isinstance(code, int) else 0)
