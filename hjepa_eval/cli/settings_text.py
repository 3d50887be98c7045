"""Settings as a YAML file that explains itself: every key with its value, what it means, and what it may be."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator

from pydantic import BaseModel

from hjepa_eval.cli.options import words_of

_WIDTH = 110


def commented_yaml(settings: BaseModel) -> str:
    """Return all settings as YAML, each key under a comment with its description and its choices."""
    return "\n".join(_lines(settings, "")) + "\n"


def _lines(settings: BaseModel, indent: str) -> Iterator[str]:
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if isinstance(value, BaseModel):
            yield f"{indent}{name}:"
            yield from _lines(value, f"{indent}  ")
            continue
        words = words_of(field.annotation)
        text = str(field.description) + (f" [{'|'.join(words)}]" if words else "")
        yield from (f"{indent}# {line}" for line in textwrap.wrap(text, _WIDTH - len(indent)))
        # JSON is YAML: numbers, lists, null and quoted words read back as they are.
        yield f"{indent}{name}: {json.dumps(settings.model_dump(mode='json')[name])}"
