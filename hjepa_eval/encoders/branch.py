"""Which of a run's two encoders: the plain-word form of `?encoder=` in an encoder's name."""

from __future__ import annotations

from pathlib import Path

from hjepa_eval.encoders.run import BRANCHES, is_run
from hjepa_eval.errors import ConfigError, unknown


def with_branch(spec: str, branch: str | None) -> str:
    """Return the name of the encoder `spec` with the branch asked for: `RUN` and `context` give `RUN?encoder=context`.

    `target` is what a run's name means already, and leaves it as it is: one encoder must not have two names.

    Args:
        spec: as `load_encoder` takes it.
        branch: `target`, `context`, or None for what the name itself says.

    Raises:
        ConfigError: the encoder has no branches, or its name says another one.
        UnknownNameError: there is no such branch.
    """
    if branch is None:
        return spec
    if branch not in BRANCHES:
        raise unknown("encoder branch", branch, BRANCHES)
    name, *options = spec.split("?")
    if not (is_run(Path(name)) or name.startswith("ijepa:")):
        raise ConfigError(
            f"--encoder {branch} chooses between the two encoders of a pretraining run, and {spec} is none; "
            "leave --encoder out, or name a run's folder with --model"
        )
    said = dict(option.partition("=")[::2] for option in options).get("encoder", branch)
    if said != branch:
        raise ConfigError(f"--encoder {branch} contradicts --model {spec}; leave one of them out")
    if branch == BRANCHES[0] or f"encoder={branch}" in options:
        return spec
    return f"{spec}?encoder={branch}"
