"""Folders in Hugging Face's format: where they are, and their weights, from safetensors only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from hjepa_eval.errors import CheckpointError, EncoderError, first_few

WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
# Nothing else is fetched: no pickled weights, and no Python files.
FILES = ("config.json", "preprocessor_config.json", "*.safetensors", "model.safetensors.index.json")
# What a checkpoint may hold beyond the encoder.
HEADS = ("classifier.", "pooler.", "decoder.", "head.", "embeddings.mask_token")


def find_folder(name: str, *, download: bool) -> Path:
    """Return the folder of `hf:NAME`: NAME itself, its newest copy in the Hugging Face cache, or a download.

    Raises:
        EncoderError: the model is not on this machine and `download` is false, or the download failed.
    """
    if Path(name).is_dir():
        return Path(name)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise EncoderError(f"hf:{name}: no such folder; expected one with config.json and model.safetensors")
    from huggingface_hub import snapshot_download

    try:
        cached = Path(snapshot_download(name, allow_patterns=list(FILES), local_files_only=True))
        if any((cached / file).is_file() for file in WEIGHTS):
            return cached
    except (OSError, ValueError):
        pass  # Not in the cache, or no name that the hub could know: the message below says both.
    if not download:
        raise EncoderError(
            f"hf:{name}: no such folder, and no such model in this machine's Hugging Face cache; "
            "fetch it with --download, or name a folder"
        )
    try:
        return Path(snapshot_download(name, allow_patterns=list(FILES)))
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise EncoderError(f"hf:{name}: the download failed: {reason}") from None


def load_pretrained(folder: Path, class_name: str, *, arguments: Mapping[str, Any]) -> Any:
    """Return a model in float32; nothing may be missing in its weights, nor left over but heads.

    Args:
        folder: with `config.json` and `model.safetensors`.
        class_name: of the model in transformers; Python files in the folder are never run.
        arguments: of that class.

    Raises:
        EncoderError: transformers is not installed, or has no such class.
        CheckpointError: the weights are absent, damaged, or do not fit; the first five names are listed.
    """
    if not any((folder / file).is_file() for file in WEIGHTS):
        found = first_few(sorted(path.name for path in folder.iterdir()))
        raise CheckpointError(f"{folder} has no model.safetensors (pickled weights are not read); it holds {found}")
    try:
        import transformers
    except ImportError:
        raise EncoderError("hf: models need transformers; install it with pip install 'hjepa[hf]'") from None
    model_class = getattr(transformers, class_name, None)
    if model_class is None:
        raise EncoderError(f"transformers {transformers.__version__} has no {class_name}; install a newer one")
    try:
        with _quiet(transformers):
            model, report = model_class.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
                **arguments,
            )
    except (SafetensorError, OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{folder} does not hold a whole {class_name}: {reason}") from None
    missing = sorted(str(key) for key in report["missing_keys"])
    extra = sorted(key for key in report["unexpected_keys"] if not key.startswith(HEADS))
    problems = {"missing": missing, "unexpected": extra}
    misfits = [f"{len(names)} {kind}: {first_few(names)}" for kind, names in problems.items() if names]
    if misfits:
        raise CheckpointError(f"{folder} does not fit {class_name}; tensors {'; '.join(misfits)}")
    return model.float()


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Keep transformers' progress bar and table of tensors out of the output: what matters becomes an error."""
    logging = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
