"""The program `hjepa`. One file per command; a command's file is loaded when the command runs or shows its help."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any, NamedTuple, NoReturn

import typer
from typer.core import TyperGroup

from hjepa_eval.cli.console import NO_READER, StdoutError, checked_stdout, say_error, usable_streams
from hjepa_eval.cli.interrupts import give_back, take_interrupts, told_interrupts
from hjepa_eval.evaluation.plans import PROBES


class Entry(NamedTuple):
    """A command in the program's list.

    Attributes:
        module: its `register` adds the command to a typer program.
        summary: what `hjepa --help` says of it.
    """

    module: str
    summary: str


_HERE = "hjepa_eval.cli.commands"
_BEFORE_PROBES = {
    "demo": Entry(f"{_HERE}.demo", "From images to the table in minutes."),
    "pretrain": Entry("hjepa_eval.cli.pretraining", "Pretrain an H-JEPA."),
    "export": Entry(f"{_HERE}.export", "Write a run's encoder for other programs."),
    "masks": Entry(
        "hjepa_eval.cli.pretraining", "Draw the masks of pretraining settings, of every kind, and say what they cover."
    ),
    "extract": Entry(f"{_HERE}.extract", "Store the features of every level."),
    "import": Entry(
        f"{_HERE}.bring",
        "Bring your own features, as a model for every probe.",
    ),
}
_AFTER_PROBES = {
    "finetune": Entry(f"{_HERE}.finetune", "Train encoder and head on labels, from one level."),
    "eval": Entry(f"{_HERE}.evaluate", "Extract, run every probe, and report."),
    "profile": Entry(f"{_HERE}.profile", "What each level knows: factors, geometry, neighbours, changes."),
    "report": Entry(f"{_HERE}.report", "Show result records level by level."),
    "search": Entry(f"{_HERE}.search", "Find the train images nearest to your own, at each level."),
    "attention": Entry(f"{_HERE}.attention", "Write a page to explore the attention of a ViT."),
    "compare": Entry(f"{_HERE}.compare", "Compare models on the same images."),
    "cache": Entry(f"{_HERE}.cache", "List, check, compare and remove feature stores."),
    "datasets": Entry(f"{_HERE}.listings", "List the datasets, and the options that their names take."),
    "protocols": Entry(
        f"{_HERE}.listings", "List the probes' protocols: where each is published, and what it cannot reproduce."
    ),
    "models": Entry(
        f"{_HERE}.listings", "List encoders, or one encoder's levels: what they read, their sizes, and what they cost."
    ),
    "doctor": Entry(f"{_HERE}.doctor", "Look at this machine and say what to mend."),
}


def all_commands() -> dict[str, Entry]:
    """Return the list of commands; every probe is one."""
    probes = {name: Entry(f"{_HERE}.probes", summary) for name, (_, summary) in PROBES.items()}
    return {**_BEFORE_PROBES, **probes, **_AFTER_PROBES}


def _load(name: str) -> Any:
    """Return a command of the list, ready to run."""
    program = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)
    module = import_module(all_commands()[name].module)
    if name in PROBES:
        module.register(program, name)
    else:
        module.register(program)
    return typer.main.get_group(program).commands[name]


class _Program(TyperGroup):
    """A group of commands that are loaded one by one."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all commands, those of the list first."""
        listed = all_commands()
        return [*listed, *(name for name in self.commands if name not in listed)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command; all are loaded for a name that is none, so that the nearest ones can be told."""
        listed = all_commands()
        for name in [cmd_name] if cmd_name in listed else listed:
            if name not in self.commands:
                self.commands[name] = _load(name)
        return self.commands.get(cmd_name)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list without loading a command of it."""
        listed = all_commands()
        rows = [(name, entry.summary) for name, entry in listed.items()]
        rows += [(name, own.get_short_help_str()) for name, own in self.commands.items() if name not in listed]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


app = typer.Typer(
    name="hjepa",
    cls=_Program,
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
        from hjepa_eval.results.provenance import __version__

        print(f"hjepa {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="show the version and exit")
    ] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the program and exit: 0 when all went well, 2 for what the user can mend, 130 after Ctrl-C.

    Where the reader of stdout has gone, as `head` does, the program ends in silence with 141.
    """
    # OpenMP reads this when torch is loaded. Its default, to wait in a busy loop, made training on two cores thirty
    # times slower as soon as another program ran (measured: 12 against 367 images/s).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    taken = take_interrupts()
    try:
        with usable_streams(), told_interrupts():
            _run(arguments)
    finally:
        if taken:
            give_back()


def _run(arguments: Sequence[str] | None) -> NoReturn:
    try:
        with checked_stdout():
            code = app(args=None if arguments is None else list(arguments), prog_name="hjepa", standalone_mode=False)
    except StdoutError as error:
        if isinstance(error.__cause__, BrokenPipeError):
            sys.exit(NO_READER)
        say_error(str(error))
        sys.exit(2)
    except _UsageProblem as error:
        if possible := getattr(error, "possibilities", None):
            # They come nearest first, and would be listed by the alphabet.
            error.possibilities = possible[:1]  # type: ignore[attr-defined]
        text = error.format_message() if hasattr(error, "format_message") else str(error)
        if type(error).__name__ == "NoArgsIsHelpError":
            print(text, file=sys.stderr)
        else:
            say_error(f"{text} (hjepa COMMAND --help shows what there is)")
        sys.exit(getattr(error, "exit_code", 2))
    sys.exit(code if isinstance(code, int) else 0)
