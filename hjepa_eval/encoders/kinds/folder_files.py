"""Folders in Hugging Face's format: where they are, their weights, from safetensors only, and their preprocessing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from hjepa_eval.datasets.transform import Transform
from hjepa_eval.errors import CheckpointError, EncoderError, first_few
from hjepa_eval.features.fingerprint import parse_json

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
    _check_index(folder / WEIGHTS[1])
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


def _check_index(index: Path) -> None:
    """Check that an index of several weight files, if there is one, names safetensors files beside it and no other.

    Raises:
        CheckpointError: it cannot be read, or names another file, which transformers would open.
    """
    if not index.is_file():
        return
    try:
        named = set(parse_json(index.read_bytes())["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} is no index of weight files: {error}; take a whole copy of the model") from None
    for name in sorted(map(str, named)):
        if not name.endswith(".safetensors") or name != Path(name).name:
            raise CheckpointError(f"{index} names {name!r}; only safetensors files beside it are read")
        if not (index.parent / name).is_file():
            raise CheckpointError(f"{index.parent} lacks {name}, which {index.name} names; take a whole copy of it")


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


FILE = "preprocessor_config.json"
# Pillow's numbers for its filters.
INTERPOLATIONS = {2: "bilinear", 3: "bicubic"}


def read_transform(folder: Path, *, default: Transform) -> Transform:
    """Return how a Hugging Face model wants its images; what its preprocessor does not say is as in `default`.

    Args:
        folder: of the model.
        default: returned when there is no preprocessor file.

    Raises:
        CheckpointError: the file is damaged, or asks for something that our transforms do not do.

    Deviation: a preprocessor without a centre crop squashes the image to a square; here its short side is resized and
    the middle cropped, as every other encoder has it, so that all see the same part of an image undistorted.
    """
    path = folder / FILE
    if not path.is_file():
        return default
    content = read_json(path)
    if not content.get("do_rescale", True) or abs(content.get("rescale_factor", 1 / 255) * 255 - 1) > 1e-3:
        raise CheckpointError(f"{path} does not scale pixels to [0, 1]; expected do_rescale with 1/255")
    resample = content.get("resample", content.get("interpolation"))
    if resample is not None and resample not in INTERPOLATIONS:
        raise CheckpointError(f"{path}: resample {resample!r} is not offered; expected 2 (bilinear) or 3 (bicubic)")
    # Without resizing every image would have its own size: such a preprocessor leaves the size to the default.
    resize = _side(content, "size", path=path) if content.get("do_resize", True) else None
    crop = _side(content, "crop_size", path=path) if content.get("do_center_crop") else None
    size = crop or resize or default.size
    if not content.get("do_normalize", True):
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    else:
        mean = _channels(content, "image_mean", default.mean, path=path)
        std = _channels(content, "image_std", default.std, path=path)
    return Transform(
        size=size,
        resize=max(resize or size, size),
        interpolation=default.interpolation if resample is None else INTERPOLATIONS[resample],
        mean=mean,
        std=std,
    )


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        CheckpointError: it cannot be read, or holds no object.
    """
    try:
        content = parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds {type(content).__name__}; expected an object of settings")
    return content


def _side(content: Mapping[str, Any], key: str, *, path: Path) -> int | None:
    """Return a side in pixels, which is spelled 224, {"shortest_edge": 224} or {"height": 224, "width": 224}."""
    value = content.get(key)
    if value is None:
        return None
    sides = list(value.values()) if isinstance(value, dict) else [value]
    if len(set(sides)) != 1 or not isinstance(sides[0], int) or sides[0] < 1:
        raise CheckpointError(f"{path}: {key} is {value}; expected one number of pixels, since images become squares")
    return sides[0]


def _channels(
    content: Mapping[str, Any], key: str, default: tuple[float, float, float], *, path: Path
) -> tuple[float, float, float]:
    value = content.get(key, default)
    if not isinstance(value, list | tuple) or len(value) != 3 or not all(isinstance(v, int | float) for v in value):
        raise CheckpointError(f"{path}: {key} is {value}; expected three numbers")
    red, green, blue = (float(number) for number in value)
    return red, green, blue
