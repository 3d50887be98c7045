"""An encoder from the user's own Python file: `file.py:build`."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from pathlib import Path

from hjepa_eval.encoders.protocol import Encoder
from hjepa_eval.errors import EncoderError, did_you_mean


def load_user_file(spec: str) -> Encoder:
    """Return what the function in `FILE.py:FUNCTION` builds.

    Raises:
        EncoderError: the file or the function does not exist, or it returns no `Encoder`.
    """
    file, _, function = spec.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise EncoderError(f"no file {path} for the encoder {spec!r}")
    module_spec = importlib.util.spec_from_file_location(f"hjepa_user_{path.stem}", path)
    if module_spec is None or module_spec.loader is None:
        raise EncoderError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module_spec.name] = module
    module_spec.loader.exec_module(module)
    build = getattr(module, function, None)
    if not callable(build):
        names = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise EncoderError(f"{path} has no function {function!r}{did_you_mean(function, names)}")
    encoder = build()
    if not isinstance(encoder, Encoder):
        raise EncoderError(f"{spec} returned {type(encoder).__name__}; return a child of hjepa_eval.encoders.Encoder")
    absent = [name for name in ("levels", "transform") if not hasattr(encoder, name)]
    if absent:
        raise EncoderError(f"{spec} returned an encoder without {' and '.join(absent)}; set them in its class")
    # The code is part of what the features depend on: an edited file must not find the old store.
    source = hashlib.sha256(path.read_bytes()).hexdigest()
    encoder.files = None  # What else the code reads is not known.
    encoder.settings = {**getattr(encoder, "settings", {}), "source": source, "function": function}
    return encoder
