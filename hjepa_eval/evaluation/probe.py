"""A probe as it is declared: its name, its options, and the plan that runs it; and the probes by name."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from hjepa_eval.config import Settings
from hjepa_eval.errors import ConfigError, UnknownNameError, did_you_mean
from hjepa_eval.evaluation.plans import PROBES
from hjepa_eval.results.headings import Heading

if TYPE_CHECKING:
    from hjepa_eval.evaluation.findings import Finding
    from hjepa_eval.evaluation.models.tokens import TokenNeed
    from hjepa_eval.evaluation.rows import LevelRow

SettingsT = TypeVar("SettingsT", bound=Settings)


@dataclass(frozen=True)
class Plan:
    """A probe under a protocol, ready to run on any level.

    Attributes:
        protocol: its name in records.
        parameters: all that changes a number.
        run: takes a row, a seed, and whether a level will be chosen; returns what was found there.
        deviations: what differs from the protocol's source.
        rule: what a level is chosen by, where that is measured.
        split: whose samples the outcomes are of.
        together: run the levels side by side, a few threads each.
        version: of the protocol; records of different ones do not share a table.
        heading: of its scores, where it is not the probe's own.
        readouts: further ones that it reads.
        views: augmented passes over the train images that it reads.
        may_be_left_out: of an evaluation with several probes, where the images do not allow this one.
        tokens: what it reads of tokens, if any.
        joins: all levels together have a row too, whatever `--fuse` says.
        contrasts: scores of the last level and of all together are compared in pairs, too.
        moves: whether it computes on the device that was asked for; the record of one that does not names the CPU.
    """

    protocol: str
    parameters: dict[str, Any]
    run: Callable[[LevelRow, int, bool], Finding]
    deviations: tuple[str, ...] = ()
    rule: str = ""
    split: str = "test"
    together: bool = False
    version: int = 1
    heading: Heading | None = None
    readouts: tuple[str, ...] = ()
    views: int = 0
    may_be_left_out: bool = False
    tokens: TokenNeed | None = None
    joins: bool = False
    contrasts: bool = False
    moves: bool = True


@dataclass(frozen=True)
class Probe(Generic[SettingsT]):
    """A probe, declared once: commands, evaluations and tables take all they need from here.

    Attributes:
        name: of the probe in records, of its command, and in `--probes`.
        heading: what tables call it.
        description: what its command's help says below the line that `PROBES` has.
        settings: its own options, beside those of every probe.
        plan: makes the plan that its options ask for.
    """

    name: str
    heading: Heading
    description: str
    settings: type[SettingsT]
    plan: Callable[[SettingsT], Plan]


def load_probe(name: str) -> Probe[Any]:
    """Return the probe of a name: one of `PROBES`, or `FILE.py:NAME`, a probe in a file of the user's.

    Raises:
        UnknownNameError: there is none of that name.
        ConfigError: there is no such file, or what it holds by that name is no probe.
        UserCodeError: the file raises an error; the message has the user's frame in three lines.
    """
    if name in PROBES:
        probe = importlib.import_module(PROBES[name][0]).PROBE
    elif ".py:" in name:
        file, _, attribute = name.rpartition(":")
        probe = getattr(_module_of(Path(file).expanduser()), attribute, None)
    else:
        hint = did_you_mean(name, PROBES)
        raise UnknownNameError(
            f"unknown probe {name!r}{hint}; known: {', '.join(PROBES)}, or FILE.py:PROBE of your own"
        )
    if not isinstance(probe, Probe):
        raise ConfigError(f"{name} is no probe; a file has PROBE = Probe(...), as docs/extending.md shows")
    return probe


def _module_of(file: Path) -> ModuleType:
    """Return the module in a file; its folder stays on the import path, for a plan may import what lies beside it.

    Raises:
        ConfigError: there is no such file.
        UserCodeError: it raises an error; the message has the user's frame in three lines.
    """
    from hjepa_eval.encoders.kinds.user_file import import_file, user_frames

    if not file.is_file():
        raise ConfigError(f"no file {file} with a probe; give FILE.py:PROBE")
    folder = str(file.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    with user_frames(str(file)):
        return import_file(file)
