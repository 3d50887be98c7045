"""`hjepa profile`: what each level knows, not only how well it classifies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from hjepa_eval.cli.console import print_json, told_errors
from hjepa_eval.cli.options import add_command, given_flags, option_parameters
from hjepa_eval.evaluation.request import Models, read_profile_request
from hjepa_eval.evaluation.settings import ProfileSettings

if TYPE_CHECKING:
    from hjepa_eval.results.profiles import Profile

_HELP = """What each level knows: factors, geometry, neighbours, changes.

Factors are properties of images: those that the data set brings, classes, and facts of the pixels, each told by a
linear probe. The heat-map shows what rises and what falls with the level; --changes adds what corruptions break.
"""


def show_profiles(profiles: Sequence[Profile], *, as_json: bool) -> None:
    """Print the heat-maps, or the profiles themselves."""
    if as_json:
        print_json([profile.model_dump(mode="json") for profile in profiles])
        return
    from hjepa_eval.report.formats.profile_terminal import profiles_text

    print(profiles_text(profiles), end="")


def register(app: typer.Typer) -> None:
    """Add the command to the program."""

    def run(config_file: Path | None = None, assignments: list[str] | None = None, **options: Any) -> None:
        with told_errors():
            from hjepa_eval.evaluation.front import profile

            request = read_profile_request(
                config=config_file, assignments=assignments or (), flags=given_flags(options)
            )
            show_profiles(profile(request=request), as_json=request.settings.as_json)

    add_command(app, "profile", run, option_parameters([Models, ProfileSettings]), _HELP)
