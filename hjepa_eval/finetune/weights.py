"""The fine-tuned encoder as a file that `--model` can name again."""

from __future__ import annotations

from pathlib import Path

from hjepa_eval.encoders.protocol import Encoder
from hjepa_eval.encoders.run import is_run, weights_folder
from hjepa_eval.errors import CheckpointError
from hjepa_eval.features.fingerprint import write_atomically
from hjepa_eval.finetune.checkpoint import write_tensors

FILE = "encoder.safetensors"


def write_encoder(run_dir: Path, encoder: Encoder) -> str | None:
    """Write the weights of `encoder`, which `load_encoder` made, and return the name that loads them again.

    Weights of a timm model keep timm's names; those of a run lie beside the run's own `config.json`, so that the folder
    can be read as a run. A user's own encoder gets its names as they are, and None: only its author can load it.

    Raises:
        CheckpointError: the folder cannot be written, or the run that the encoder came from is gone.
    """
    path = run_dir / FILE
    name, *options = encoder.name.split("?")
    origin = Path(name.removeprefix("random:"))
    if is_run(origin):
        _copy(weights_folder(origin) / "config.json", run_dir / "config.json")
        write_tensors(path, {key.replace("model.", "target.", 1): t for key, t in encoder.state_dict().items()})
        return str(run_dir)
    kind, _, argument = name.partition(":")
    if kind not in ("timm", "random"):
        write_tensors(path, encoder.state_dict())
        return None
    write_tensors(path, {key.removeprefix("model."): tensor for key, tensor in encoder.state_dict().items()})
    kept = [option for option in options if not option.startswith("checkpoint=")]
    return "?".join([f"timm:{argument}", f"checkpoint={path}", *kept])


def _copy(source: Path, target: Path) -> None:
    try:
        write_atomically(target, source.read_bytes())
    except OSError as error:
        raise CheckpointError(f"cannot write {target}: {error.strerror}; make room, or name another --run") from None
