"""`hjepa models NAME`: what an encoder's levels read, how many numbers they give, and what they cost."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch

from hjepa_eval.datasets.protocol import ImageDataset
from hjepa_eval.encoders import find_network, load_encoder
from hjepa_eval.encoders.costs import LevelCost, encoder_costs
from hjepa_eval.encoders.protocol import Encoder
from hjepa_eval.encoders.readouts import READOUTS, Level, level_widths
from hjepa_eval.evaluation.models.given import load_split, resolve
from hjepa_eval.evaluation.settings import ImageSettings
from hjepa_eval.extraction.timing import Milliseconds, encoder_timing, timed_batch
from hjepa_eval.machine.devices import hardware_name

COLUMNS = ("level", "reads", "grid", "tokens", "width", "parameters (M)", "GFLOP/image", "ms/image")
CONVENTION = (
    "parameters and GFLOP from the image up to that level alone; a multiply-add is 2 FLOP, elementwise work is 0"
)


def describe(settings: ImageSettings) -> dict[str, Any]:
    """Return what there is to say about an encoder and each of its levels, as JSON values.

    Raises:
        HjepaError: there is no such encoder, or what it is made of is missing.
    """
    resolved = resolve(settings)
    fitted_on = []

    def train_images() -> ImageDataset:
        fitted_on.append(load_split(resolved, "train"))
        return fitted_on[-1]

    encoder = load_encoder(
        str(resolved.model),
        seed=resolved.seed,
        download=resolved.download,
        train_images=train_images,
        cache_dir=resolved.cache_dir,
    )
    costs = encoder_costs(encoder)
    device = torch.device(resolved.device)
    timing = encoder_timing(encoder, device=device, precision=resolved.precision, batch=timed_batch(resolved.device))
    return {
        "model": encoder.name,
        "fitted_on": fitted_on[-1].name if fitted_on else None,
        "image_size": encoder.transform.size,
        "image_shape": list(encoder.transform.shape),
        "parameters": sum(parameter.numel() for parameter in encoder.parameters()),
        "buffers": sum(buffer.numel() for buffer in encoder.buffers() if buffer.is_floating_point()),
        "gflop": costs.together.gflop,
        "uncounted": list(costs.together.uncounted),
        "notes": list(encoder.notes),
        "milliseconds": timing.together.median,
        "spread": timing.together.spread,
        "timed": {
            "device": resolved.device,
            "hardware": hardware_name(resolved.device),
            "threads": torch.get_num_threads() if device.type == "cpu" else None,
            "precision": resolved.precision,
            "batch": timing.batch,
            "steady": timing.steady,
        },
        "levels": _levels(encoder, costs.levels, timing.levels),
    }


def _levels(encoder: Encoder, costs: Sequence[LevelCost], times: Sequence[Milliseconds] | None) -> list[dict[str, Any]]:
    """Return what there is to say about each level; `times` are None where a level cannot be run alone."""
    return [
        {
            "index": level.index,
            "name": level.name,
            "dim": level.dim,
            "grid": list(level.grid),
            "prefix": level.prefix,
            "tokens": level.tokens,
            "parameters": cost.parameters,
            "gflop": cost.gflop,
            "uncounted": list(cost.uncounted),
            "milliseconds": spent and spent.median,
            "spread": spent and spent.spread,
            "readouts": _widths(encoder.levels, level),
        }
        for level, cost, spent in zip(encoder.levels, costs, times or (None,) * len(encoder.levels), strict=True)
    ]


def describe_layers(settings: ImageSettings) -> list[dict[str, str]]:
    """Return name, class and what it gives of every layer of the network in an encoder, as `?layers=` takes them.

    Raises:
        HjepaError: there is no such encoder, what it is made of is missing, or it fails on images of its size.
    """
    from hjepa_eval.encoders.kinds.user_file import user_frames
    from hjepa_eval.encoders.networks.layers import list_layers

    resolved = resolve(settings)
    model, shape = find_network(str(resolved.model), seed=resolved.seed, download=resolved.download)
    with torch.no_grad(), user_frames(str(resolved.model), images=shape):
        rows = list_layers(model, torch.zeros(2, 3, *shape))
    return [{"layer": name, "class": kind, "gives": given} for name, kind, given in rows]


def layer_lines(rows: list[dict[str, str]]) -> list[str]:
    """Return the layers as a table; B is the batch. Layers that differ in one number of their names are one line."""
    table = [{"layer": "layer", "class": "class", "gives": "gives"}, *_grouped(rows)]
    widths = {key: max(len(row[key]) for row in table) for key in ("layer", "class")}
    return [f"{row['layer']:<{widths['layer']}}  {row['class']:<{widths['class']}}  {row['gives']}" for row in table]


def _grouped(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Return rows with those of one class and output in one, such as `blocks.0-11.attn`."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        pattern = re.sub(r"(?<=\.)\d+(?=\.|$)", "*", row["layer"], count=1)
        groups.setdefault((pattern, row["class"], row["gives"]), []).append(row["layer"])
    return [
        {"layer": _spanned(pattern, names), "class": kind, "gives": gives}
        for (pattern, kind, gives), names in groups.items()
    ]


def _spanned(pattern: str, names: list[str]) -> str:
    """Return a pattern with the numbers that it stands for; a single name as it is."""
    if len(names) == 1:
        return names[0]
    place = pattern.split(".").index("*")
    numbers = [int(name.split(".")[place]) for name in names]
    whole = numbers == list(range(numbers[0], numbers[-1] + 1))
    return pattern.replace("*", f"{numbers[0]}-{numbers[-1]}" if whole else ",".join(map(str, numbers)))


def _widths(levels: Sequence[Level], level: Level) -> dict[str, int]:
    """Return the numbers per image of each readout that a level has; some need a class token."""
    place = list(levels).index(level)
    return {
        name: level_widths(name, levels)[place] for name, readout in READOUTS.items() if level.prefix >= readout.prefix
    }


def lines(description: dict[str, Any]) -> list[str]:
    """Return a description as text: a headline, the table of levels, the readouts."""
    size, levels = "x".join(map(str, description["image_shape"])), description["levels"]
    rows = [COLUMNS, *(_cells(level) for level in levels)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    table = [
        "  ".join(
            cell.ljust(width) if title == "reads" else cell.rjust(width)
            for title, cell, width in zip(COLUMNS, row, widths, strict=True)
        )
        for row in rows
    ]
    return [
        f"{description['model']}: {_numbers(description)}, images {size}, {description['gflop']:.3f} GFLOP per image",
        *table,
        f"readouts and their widths: {_readouts(levels)}",
        CONVENTION,
        _timed(description),
        *(f"not counted: {name}" for name in description["uncounted"]),
        *(f"note: {note}" for note in description["notes"]),
    ]


def _numbers(description: dict[str, Any]) -> str:
    """Return how many parameters an encoder has; of one without any, how many numbers were fitted instead."""
    # Where there are parameters, buffers are running means and the like, which nobody counts.
    if description["parameters"] or not description["buffers"]:
        return f"{description['parameters'] / 1e6:.2f}M parameters"
    on = f" on {description['fitted_on']}" if description["fitted_on"] else ""
    return f"no parameters, {description['buffers']:,} numbers fitted{on}"


def _cells(level: dict[str, Any]) -> tuple[str, ...]:
    return (
        str(level["index"]),
        level["name"],
        "x".join(map(str, level["grid"])),
        str(level["tokens"]),
        str(level["dim"]),
        f"{level['parameters'] / 1e6:.2f}",
        f"{level['gflop']:.3f}",
        "-" if level["milliseconds"] is None else f"{level['milliseconds']:.3f}±{level['spread']:.3f}",
    )


def _timed(description: dict[str, Any]) -> str:
    """Say where the milliseconds come from: they are of this machine, and of this moment."""
    timed = description["timed"]
    threads = f", {timed['threads']} threads" if timed["threads"] else ""
    where = f"{timed['hardware']}{threads}, {timed['precision']}, batches of {timed['batch']}"
    whole = f"{description['milliseconds']:.3f}±{description['spread']:.3f}"
    busy = "" if timed["steady"] else "; passes took unlike times, the machine is busy: measure again when it is quiet"
    return f"ms measured now, median and half of the middle half, on this machine ({where}); all levels {whole}{busy}"


def _readouts(levels: list[dict[str, Any]]) -> str:
    """Return `mean 192, ..., tokens 12288/3072/768`: one width where all levels have the same, `-` where none."""
    parts = []
    for name in READOUTS:
        widths = [str(level["readouts"].get(name, "-")) for level in levels]
        if set(widths) != {"-"}:
            parts.append(f"{name} {widths[0] if len(set(widths)) == 1 else '/'.join(widths)}")
    return ", ".join(parts)
