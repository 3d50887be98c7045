"""Encoders from pretraining runs: `config.json` says how to build one, `encoder.safetensors` fills it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hjepa_eval.datasets.transform import Transform
from hjepa_eval.errors import CheckpointError, ConfigError, EncoderError, unknown
from hjepa_eval.features.fingerprint import hash_json, parse_json, write_atomically

if TYPE_CHECKING:
    from hjepa_eval.encoders.kinds.timm_network import ViTEncoder
    from hjepa_eval.encoders.protocol import Encoder
    from hjepa_eval.encoders.stages import StageEncoder

FORMAT_VERSION = 1
BRANCHES = ("target", "context")


def is_run(folder: Path) -> bool:
    """Tell whether a folder looks like a pretraining run or a checkpoint."""
    return (folder / "config.json").is_file()


def newest_run(runs: Path) -> Path:
    """Return the newest finished run in a folder of runs.

    Raises:
        EncoderError: there is none; the message says which command makes one.
    """
    finished = [path.parent for path in runs.glob("*/summary.json") if is_run(path.parent)]
    if not finished:
        raise EncoderError(
            f"no --model given and no finished run under {runs}/; make one with "
            "'hjepa pretrain --config configs/pretrain/digits.yaml' or 'hjepa demo', "
            "or name an encoder such as --model random:vit_tiny_patch4_32"
        )
    return max(finished, key=lambda run: (run / "summary.json").stat().st_mtime_ns)


def read_run_config(folder: Path) -> dict[str, Any]:
    """Return the content of a run's `config.json`.

    Raises:
        CheckpointError: it is absent, damaged, of another version, or lacks a part.
    """
    path = folder / "config.json"
    try:
        config = parse_json(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
    if not isinstance(config, dict) or config.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(f"{path}: expected format_version {FORMAT_VERSION}; was it made by another program?")
    absent = [name for name in ("encoder", "transform", "dataset") if name not in config]
    if absent:
        raise CheckpointError(f"{path} lacks {', '.join(absent)}; take the file of the run again")
    return config


def weights_folder(run: Path) -> Path:
    """Return the folder with the run's weights: the run itself when finished, else its newest checkpoint.

    A finished run's `summary.json` has the sha256 of its weights, a checkpoint's `state.json` that of its own, the
    folder of a fine-tuning a list of sums. Those of before have none, and are taken as they are.

    Raises:
        CheckpointError: there are no weights yet, or they are not what was written.
    """
    if (run / "encoder.safetensors").is_file():
        if (run / "summary.json").is_file() and not _as_written(run, "summary.json", needed=False):
            raise CheckpointError(
                f"{run}: encoder.safetensors, config.json or summary.json is damaged (the sha256 differs); take the "
                "files of the run again, or name a checkpoint under its checkpoints/"
            )
        check_sums(run)
        return run
    checkpoints = sorted(run.glob("checkpoints/step-*/encoder.safetensors"))
    if not checkpoints:
        raise CheckpointError(f"{run} has no encoder.safetensors and no checkpoint; let the run go on with --resume")
    newest = checkpoints[-1].parent
    if not _as_written(newest, "state.json"):
        raise CheckpointError(
            f"{newest} is damaged; name an older checkpoint beside it, or let the run go on with --resume"
        )
    return newest


def _as_written(folder: Path, witness: str, *, needed: bool = True) -> bool:
    """Tell whether weights and settings in a folder have the sha256 that the JSON file `witness` gives, if `needed`.

    It may give one of its own content too. Summaries of before have none of the settings, nor of themselves.
    """
    try:
        told = parse_json((folder / witness).read_bytes())
        if not needed and "steps" in told and "sha256" not in told:
            return True
        sums = told["sha256"]
        rest = {name: value for name, value in told.items() if name != "sha256"}
        others = {name: value for name, value in sums.items() if name != witness}
        # A checkpoint's own sum is over the sums of its files, too.
        if witness in sums and sums[witness] not in (hash_json(rest), hash_json({**rest, "sha256": others})):
            return False
        named = ("encoder.safetensors", *(["config.json"] if "config.json" in sums else []))
        return all(_current_sha256(folder / name) == sums[name] for name in named)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


# As `sha256sum -c` reads it.
SUMS = "SHA256SUMS"


def write_sums(folder: Path, *, names: Sequence[str] = ()) -> None:
    """Write a list with the sha256 of files in a folder, which `check_sums` and `sha256sum -c` compare with.

    Args:
        folder: where the files and the list lie.
        names: of the files; all that are there when not given.

    Raises:
        OSError: the folder cannot be written.
    """
    names = names or sorted(path.name for path in folder.iterdir() if path.is_file() and path.name != SUMS)
    lines = [f"{_current_sha256(folder / name)}  {name}\n" for name in names]
    write_atomically(folder / SUMS, "".join(lines).encode())


def check_sums(folder: Path) -> None:
    """Check that files in a folder are what its list of sums says, where it has one.

    Raises:
        CheckpointError: a file is another one, or the list is none.
    """
    path = folder / SUMS
    if not path.is_file():
        return
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        listed = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
        # No path leads out of the folder; what is absent is told by who needs it.
        here = {name for name in listed if Path(name).name == name and (folder / name).is_file()}
        changed = [name for name in sorted(here) if _current_sha256(folder / name) != listed[name]]
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
    if changed or not listed:
        raise CheckpointError(
            f"{folder}: {', '.join(changed) or SUMS} is not what was written (the sha256 differs from {SUMS}); "
            f"take the folder again, or remove {SUMS} if the change was meant"
        )


def _current_sha256(path: Path) -> str:
    status = path.stat()
    return _sha256(path, status.st_mtime_ns, status.st_ctime_ns, status.st_size)


@lru_cache(maxsize=64)
def _sha256(path: Path, *state: int) -> str:
    """Return the sha256 of a file; read once for each `state` that it is in."""
    content = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(2**20):
            content.update(part)
    return content.hexdigest()


def _build(run: Path, name: str) -> ViTEncoder | StageEncoder:
    # timm takes seconds to import, which who only asks what a run is should not wait for.
    from hjepa_eval.encoders.kinds.timm_network import ViTEncoder
    from hjepa_eval.encoders.stages import StageEncoder, create_stages
    from hjepa_eval.encoders.vit import create_vit
    from hjepa_eval.encoders.weights import check_sizes

    config = read_run_config(run)
    if "learner" in config["encoder"]:
        raise EncoderError(
            f"{run} holds a model of {config['dataset'].get('name')}, which reads no images; bring its features: "
            f"hjepa import {run}/features/SET.npz --name NAME, then --model features:NAME"
        )
    try:
        encoder, transform = config["encoder"], config["transform"]
        check_sizes(encoder["arguments"], source=str(run / "config.json"))
        preparation = Transform(**{**transform, "mean": tuple(transform["mean"]), "std": tuple(transform["std"])})
        architecture = {name: value for name, value in encoder["arguments"].items() if name != "seed"}
        if "stages" in encoder:
            return StageEncoder(
                create_stages(encoder["stages"], **encoder["arguments"]),
                name,
                transform=preparation,
                architecture={"timm": encoder["stages"], **architecture},
                indices=[tap - 1 for tap in encoder["taps"]],
            )
        return ViTEncoder(
            create_vit(encoder["vit"], **encoder["arguments"]),
            name,
            taps=tuple(encoder["taps"]),
            transform=preparation,
            architecture={"timm": encoder["vit"], **architecture},
        )
    except (KeyError, TypeError, ValueError, AttributeError, AssertionError, RuntimeError, MemoryError) as error:
        raise CheckpointError(f"{run / 'config.json'} does not describe an encoder: {error}") from None


def load_run(run: Path, options: Mapping[str, str]) -> Encoder:
    """Return the encoder of a run or checkpoint folder; `?encoder=context` takes the trained branch, not the EMA.

    Raises:
        CheckpointError: the folder lacks a file, or its tensors do not fit; the first five are listed.
        UnknownNameError: `?encoder=` is neither `target` nor `context`.
    """
    from hjepa_eval.encoders.weights import load_strict, read_tensors

    branch = options.get("encoder", "target")
    if branch not in BRANCHES:
        raise unknown("encoder branch", branch, BRANCHES)
    folder = weights_folder(run)
    built = _build(folder, str(run) if branch == "target" else f"{run}?encoder={branch}")
    file = folder / "encoder.safetensors"
    prefix = f"{branch}."
    tensors = {name.removeprefix(prefix): t for name, t in read_tensors(file).items() if name.startswith(prefix)}
    load_strict(built.model, tensors, source=f"{file} ({branch} encoder)")
    # A run that goes on has other weights with every checkpoint.
    built.files = (file, folder / "config.json") if folder == run else None
    return built


def load_untrained_run(run: Path) -> Encoder:
    """Return a run's encoder as it was before the first step: `random:RUN`."""
    return _build(weights_folder(run), f"random:{run}")


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
