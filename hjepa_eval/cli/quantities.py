"""Sizes and durations as people write them: `50GB`, `30d`."""

from __future__ import annotations

import re

from hjepa_eval.errors import ConfigError

_BYTES = {"": 1, "b": 1, **{f"{letter}b": 1000 ** (place + 1) for place, letter in enumerate("kmgt")}}
_BYTES |= {f"{letter}ib": 1024 ** (place + 1) for place, letter in enumerate("kmgt")}
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)")


def read_size(option: str, text: str) -> int:
    """Return the bytes that `50GB`, `1.5 GiB` or `800` name.

    Raises:
        ConfigError: it is no size.
    """
    return int(_read(option, text, _BYTES, "a size such as 500MB, 50GB or 1.5TB"))


def read_duration(option: str, text: str) -> float:
    """Return the seconds that `90m`, `12h`, `30d` or `2w` name.

    Raises:
        ConfigError: it is no duration.
    """
    return _read(option, text, _SECONDS, "a duration such as 12h, 30d or 2w")


def _read(option: str, text: str, units: dict[str, int], expected: str) -> float:
    found = _QUANTITY.fullmatch(text.strip().lower())
    if found is None or found[2] not in units:
        raise ConfigError(f"{option} is {text!r}, expected {expected}")
    return float(found[1]) * units[found[2]]


def show_size(count: int) -> str:
    """Return `823 B`, `4.1 MB` or `12.3 GB`."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.95:
            return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
