"""An encoder from the user's own code: `file.py:build`, `file.py:MyViT?layers=...`, or `package.module:name`."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import torch
from torch import nn

from hjepa_eval.encoders.kinds.arguments import read_arguments
from hjepa_eval.encoders.kinds.hooked import HookedEncoder, module_transform, side_that_runs
from hjepa_eval.encoders.networks.naming import OPTIONS, fill
from hjepa_eval.encoders.networks.trial import hash_outputs
from hjepa_eval.encoders.protocol import Encoder
from hjepa_eval.errors import EncoderError, HjepaError, UserCodeError, did_you_mean

# What is ours among the options of user code, unless its signature names it.
RESERVED = (*OPTIONS, "layers", "size")
_PREFIX = "hjepa_user_"
# Modules that an earlier call loaded from a user's folder: another folder may have one of the same name.
_LOADED: set[str] = set()


def load_network(spec: str, options: Mapping[str, str], *, seed: int) -> nn.Module:
    """Return what `load_user_code` wraps: the bare module, without a checkpoint and levels.

    Raises:
        HjepaError: as `load_user_code`.
    """
    with own_modules(spec.rpartition(":")[0]), user_frames(spec):
        built, _ = _call(_find(spec), options, spec=spec, seed=seed)
        if not isinstance(built, nn.Module):
            raise EncoderError(f"{spec} returned {type(built).__name__}; return a torch.nn.Module")
        return built


def _find(spec: str) -> Callable[..., Any]:
    """Import the user's module, and return the function, class or module that is named in it."""
    source, _, name = spec.rpartition(":")
    module = _import(source)
    build = getattr(module, name, None)
    if not callable(build):
        names = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise EncoderError(f"{source} has no function or class {name!r}{did_you_mean(name, names)}")
    return cast("Callable[..., Any]", build)


def load_user_code(spec: str, options: Mapping[str, str], *, seed: int) -> Encoder:
    """Return what `FILE.py:NAME` or `package.module:NAME` gives: an `Encoder`, or a module whose layers are levels.

    A class or function is called with the options that its signature names; a module is taken as it is.

    Args:
        spec: the file or the import path, a colon, and the name in it.
        options: `layers`, `checkpoint`, `section`, `prefix`, `names` and `size`, unless the signature has such a name;
            the others are arguments.
        seed: of weights that it draws.

    Raises:
        EncoderError: there is no such file or name, it gives something else, or a layer does not fit.
        UserCodeError: the user's code raised an error; the message has the user's frame in three lines.
        UnknownNameError: a layer or an option is unknown.
        CheckpointError: the checkpoint does not fit.
    """
    source, _, name = spec.rpartition(":")
    with own_modules(source) as own, user_frames(spec):
        build = _find(spec)
        built, ours = _call(build, options, spec=spec, seed=seed)
        if isinstance(built, Encoder):
            encoder = _checked(built, ours, spec=spec)
        elif isinstance(built, nn.Module):
            notes = _filled(built, ours)
            encoder = _hooked(built, ours, spec=spec, built_for=_built_for(build, options))
            encoder.notes = (*notes, *encoder.notes)
        else:
            raise EncoderError(f"{spec} returned {type(built).__name__}; return a torch.nn.Module")
        if not isinstance(encoder, HookedEncoder):
            encoder.settings = {**getattr(encoder, "settings", {}), "outputs": hash_outputs(encoder)}
        # The code is part of what the features depend on: an edited file must not find the old store.
        encoder.settings = {**encoder.settings, "source": _hash_sources(own()), "function": name}
    encoder.files = None  # What else the code reads is not known.
    return encoder


def _call(build: Callable[..., Any], options: Mapping[str, str], *, spec: str, seed: int) -> tuple[Any, dict[str, str]]:
    """Return what the user's function or class gives, and the options that are ours."""
    if isinstance(build, nn.Module):
        arguments, ours = read_arguments(None, options, reserved=RESERVED, spec=spec)
        return build, ours
    arguments, ours = read_arguments(build, options, reserved=RESERVED, spec=spec)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(**arguments), ours


def _checked(encoder: Encoder, ours: Mapping[str, str], *, spec: str) -> Encoder:
    if ours:
        raise EncoderError(f"{spec} is an Encoder with levels of its own; leave ?{next(iter(ours))} out")
    absent = [name for name in ("levels", "transform") if not hasattr(encoder, name)]
    if absent:
        raise EncoderError(f"{spec} returned an encoder without {' and '.join(absent)}; set them in its class")
    encoder.name = getattr(encoder, "name", spec)
    return encoder.eval()


def _filled(model: nn.Module, ours: Mapping[str, str]) -> tuple[str, ...]:
    if "checkpoint" in ours:
        return fill(model, ours)
    stray = [key for key in ("section", "prefix", "names") if key in ours]
    if stray:
        raise EncoderError(f"?{stray[0]}= says how to read a checkpoint; name one with ?checkpoint=FILE")
    return ()


# What constructors call the side of the images that they build for.
_SIDE_NAMES = ("img_size", "image_size", "input_size", "size")


def _built_for(build: Callable[..., Any], options: Mapping[str, str]) -> int | None:
    """Return the side of images that a class or function builds for: what its option says, else its default."""
    if isinstance(build, nn.Module):
        return None
    try:
        parameters = inspect.signature(build).parameters
    except (TypeError, ValueError):  # Of a class in C.
        return None
    for name in (name for name in _SIDE_NAMES if name in parameters):
        value: Any = options.get(name, parameters[name].default)
        value = value[0] if isinstance(value, list | tuple) and value else value
        if str(value).isdigit() and int(value) > 0:
            return int(value)
    return None


def _hooked(model: nn.Module, ours: Mapping[str, str], *, spec: str, built_for: int | None = None) -> HookedEncoder:
    if "layers" not in ours:
        raise EncoderError(
            f"{spec} is a module without levels; say which layers they are: ?layers=NAME,NAME "
            f"('hjepa models {spec} --layers' lists them)"
        )
    layers = [layer.strip() for layer in ours["layers"].split(",") if layer.strip()]
    transform, note = module_transform(model, size=ours.get("size"), built_for=built_for)
    with user_frames(spec, images=transform.shape, model=model):
        encoder = HookedEncoder(model, spec, layers=layers, transform=transform)
    encoder.notes = (*((note,) if note else ()), *encoder.notes)
    return encoder


def _import(source: str) -> ModuleType:
    if not source.endswith(".py"):
        return importlib.import_module(source)
    if not Path(source).is_file():
        raise EncoderError(f"no file {source} for the encoder")
    return import_file(Path(source))


def import_file(path: Path) -> ModuleType:
    """Return the module in a file of the user's, loaded anew; whatever its code raises comes through.

    Raises:
        EncoderError: its name is not that of a Python file.
    """
    # Not the bare stem: a file `random.py` must not stand in for a module of that name.
    module_spec = importlib.util.spec_from_file_location(f"{_PREFIX}{path.stem}", path)
    if module_spec is None or module_spec.loader is None:
        raise EncoderError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module_spec.name] = module
    module_spec.loader.exec_module(module)
    return module


@contextmanager
def own_modules(source: str) -> Iterator[Callable[[], dict[str, Path]]]:
    """Put a file's folder on the import path meanwhile; give a function of the user's modules that are loaded by then.

    What an earlier call loaded from such a folder is loaded anew: it may have been edited, and another folder may have
    a module of the same name.
    """
    for name in _LOADED:
        sys.modules.pop(name, None)
    _LOADED.clear()
    before, path = set(sys.modules), list(sys.path)
    if source.endswith(".py"):
        sys.path.insert(0, str(Path(source).resolve().parent))
        importlib.invalidate_caches()

    def loaded() -> dict[str, Path]:
        files = {name: _file_of(module) for name, module in list(sys.modules.items())}
        reached = _reached(f"{_PREFIX}{Path(source).stem}" if source.endswith(".py") else source)
        return {
            name: file
            for name, file in files.items()
            if file and (name not in before or name in reached) and _is_own(file)
        }

    try:
        yield loaded
    finally:
        _LOADED.update(name for name, file in loaded().items() if name not in before)
        sys.path[:] = path


def _file_of(module: ModuleType) -> Path | None:
    file = getattr(module, "__file__", None)
    return Path(file) if isinstance(file, str) and file.endswith(".py") else None


def _is_own(file: Path) -> bool:
    """Tell whether a file is neither of Python, nor of an installed package, nor of this one."""
    paths = sysconfig.get_paths()
    installed = [paths[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")]
    packages = [str(Path(__file__).parents[2])]
    place = str(file.resolve())
    return not place.startswith(tuple(f"{Path(root).resolve()}/" for root in (*installed, *packages)))


def _reached(name: str) -> set[str]:
    """Return the modules that a module's globals come from, however far: who was imported before is found so."""
    reached, waiting = set(), [name]
    while waiting:
        current = waiting.pop()
        module = sys.modules.get(current)
        if module is None or current in reached:
            continue
        reached.add(current)
        file = _file_of(module)
        if file is None or not _is_own(file):
            continue
        for value in list(vars(module).values()):
            origin = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
            waiting += [origin] if isinstance(origin, str) else []
    return reached


def _hash_sources(files: Mapping[str, Path]) -> str:
    """Return the sha256 of modules' names and contents; a copy of their folder has the same."""
    digest = hashlib.sha256()
    for name, file in sorted(files.items()):
        digest.update(f"{name}|{hashlib.sha256(file.read_bytes()).hexdigest()}|".encode())
    return digest.hexdigest()


@contextmanager
def user_frames(spec: str, *, images: tuple[int, int] | None = None, model: nn.Module | None = None) -> Iterator[None]:
    """Turn an error of the user's own code into three lines: what failed, in which line of it, and that line.

    Args:
        spec: what failed.
        images: rows and columns of the images that it was given, in pixels; the message says how to give others.
        model: what failed on them; the message says on which usual size it runs.

    Raises:
        UserCodeError: anything that is no `HjepaError` was raised.
    """
    try:
        yield
    except HjepaError:
        raise
    except Exception as error:  # noqa: BLE001 - a user's code may raise anything
        text = " ".join(str(error).split())
        what = (
            f"{spec} failed{_on(images, model)}: {type(error).__name__}: {text[:300]}{'...' if len(text) > 300 else ''}"
        )
        frames = [
            frame
            for frame in traceback.extract_tb(error.__traceback__)
            if not frame.filename.startswith("<") and _is_own(Path(frame.filename))
        ]
        if not frames:
            raise UserCodeError(what) from None
        frame = frames[-1]
        where = f"  {frame.filename}, line {frame.lineno}, in {frame.name}\n    {frame.line}"
        raise UserCodeError(f"{what}\n{where}") from None


def _on(images: tuple[int, int] | None, model: nn.Module | None) -> str:
    if images is None:
        return ""
    side = None if model is None else side_that_runs(model)
    other = "?size= sets others" if side in (None, *images) else f"it runs on {side}x{side}: ?size={side}"
    return f" on images of {images[0]}x{images[1]} pixels ({other})"
