"""Factors in a file: `factors.csv` beside the splits says of images what their folders do not."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hjepa_eval.datasets.factors import Factor
from hjepa_eval.errors import DataError, first_few

FACTOR_TABLE = "factors.csv"
_KINDS = ("categorical", "numeric")


def read_factor_table(root: Path, names: Sequence[str]) -> dict[str, Factor]:
    """Return the factors in `root/factors.csv` of some images, by name; none where there is no such file.

    Its first column is `name`, the path of an image from `root`, such as `train/cat/1.png`; every other one is a
    factor: numeric where all values are numbers, else categorical; `hour:categorical` as its heading decides. An empty
    field is a value that is missing, and so is an image that no line names.

    Args:
        root: folder that holds the splits.
        names: paths of the images from `root`, in the data set's order.

    Raises:
        DataError: the file cannot be read, has no column `name`, names an image twice or one that is not there, or a
            numeric column holds other text.
    """
    path = root / FACTOR_TABLE
    if not path.is_file():
        return {}
    rows = _rows(path)
    columns = list(rows[0][1]) if rows else []
    absent = [name for _, values in rows if not (root / (name := values["name"])).is_file()]
    if absent:
        raise DataError(f"{path} names {len(absent)} files that are not there: {first_few(absent)}; mend their names")
    lines: dict[str, int] = {}
    for number, (line, values) in enumerate(rows):
        if values["name"] in lines:
            raise DataError(f"{path}, line {line}: {values['name']} is named twice; keep one of the lines")
        lines[values["name"]] = number
    places = [lines.get(name, -1) for name in names]
    return {
        factor.name: factor
        for column in columns
        if column != "name"
        for factor in [_factor(path, column, [(line, values[column]) for line, values in rows], places)]
    }


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Return the lines of the file, each with its number."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            if "name" not in (reader.fieldnames or ()):
                raise DataError(f"{path} has no column 'name' in its first line; expected name,FACTOR,...")
            rows = []
            for values in reader:
                if None in values or None in values.values():
                    raise DataError(f"{path}, line {reader.line_num}: it has more or fewer fields than the first line")
                rows.append((reader.line_num, {key: value.strip() for key, value in values.items()}))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read {path}: {error}") from None
    return rows


def _factor(path: Path, column: str, cells: Sequence[tuple[int, str]], places: Sequence[int]) -> Factor:
    """Return one column as a factor of the images at these places of the file, -1 for those it does not name."""
    name, colon, kind = column.rpartition(":")
    if not colon or kind not in _KINDS:
        name, kind = column, ""
    numbers = [_number(text) for _, text in cells]
    if not kind:
        kind = "categorical" if None in numbers else "numeric"
    if kind == "numeric":
        for number, (line, text) in zip(numbers, cells, strict=True):
            if number is None:
                raise DataError(f"{path}, line {line}: {column} is {text!r}, no number; leave a missing value empty")
        values = np.array([*(math.nan if number is None else number for number in numbers), math.nan])
        return Factor(name, "numeric", values[places])
    categories = sorted({text for _, text in cells if text})
    indices = {text: float(index) for index, text in enumerate(categories)}
    values = np.array([*(indices.get(text, math.nan) for _, text in cells), math.nan])
    return Factor(name, "categorical", values[places], tuple(categories))


def _number(text: str) -> float | None:
    """Return a field as a number, NaN for an empty one and None for other text."""
    if not text:
        return math.nan
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
