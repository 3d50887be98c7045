"""Where a page's numbers come from: commands, versions, seeds, devices, stores and dates."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hjepa_eval.report.page.models import PageModel
from hjepa_eval.results.records import Record

# Hexadecimal digits that tell stores and weights apart.
SHORT = 12


@dataclass(frozen=True)
class Command:
    """A command and the records it made, in words."""

    text: str
    made: str


@dataclass(frozen=True)
class Sources:
    """Everything that repeats the numbers of a page.

    Attributes:
        commands: each once.
        records: header and rows of text, a row per record.
        images: (what, text) about the dataset.
        versions: header and rows of text; a column per set of versions, as records may be of several.
        settings: (whose they are, settings as JSON), each once.
    """

    commands: tuple[Command, ...]
    records: tuple[tuple[str, ...], ...]
    images: tuple[tuple[str, str], ...]
    versions: tuple[tuple[str, ...], ...]
    settings: tuple[tuple[str, str], ...]


def sources(models: Sequence[PageModel]) -> Sources:
    """Return the provenance of all records of a page."""
    named = [(model.name, each.record) for model in models for each in model.located]
    commands = _shared((record.provenance.command, name, record.probe) for name, record in named)
    made = tuple(Command(text, whose) for text, whose in commands.items())
    # Probes of one evaluation have the settings of all of them.
    settings = _shared(
        (json.dumps(record.provenance.settings, indent=1, ensure_ascii=False), name, record.probe)
        for name, record in named
    )
    shown = tuple((whose, text) for text, whose in settings.items())
    records = (_HEADER, *(_row(name, record) for name, record in named))
    return Sources(made, records, _images(named[0][1]), _versions([record for _, record in named]), shown)


def _shared(found: Iterable[tuple[str, str, str]]) -> dict[str, str]:
    """Return each text once with whose it is, from (text, model, probe), such as `runs/a: knn, linear; pixels: knn`."""
    whose: dict[str, dict[str, list[str]]] = {}
    for text, model, probe in found:
        whose.setdefault(text, {}).setdefault(model, []).append(probe)
    return {
        text: "; ".join(f"{model}: {', '.join(dict.fromkeys(probes))}" for model, probes in models.items())
        for text, models in whose.items()
    }


_HEADER = (
    "model",
    "probe",
    "protocol",
    "made",
    "seeds",
    "device",
    "precision",
    "readout",
    "features",
    "seconds",
    "weights",
    "train store",
    "test store",
)


def _row(name: str, record: Record) -> tuple[str, ...]:
    made, extraction = record.provenance, record.extraction
    images = extraction.forward_images
    return (
        name,
        record.probe,
        f"{record.protocol} (version {record.protocol_version})",
        made.created.replace("T", " ").replace("+00:00", " UTC"),
        ", ".join(map(str, record.seeds or (made.seed,))),
        made.device,
        extraction.precision,
        extraction.readout,
        f"{images:,} images through the encoder" if images else "from the cache",
        f"{sum(made.seconds.values()):.1f}",
        record.model.weights[:SHORT],
        extraction.train_store[:SHORT],
        extraction.test_store[:SHORT],
    )


def _images(record: Record) -> tuple[tuple[str, str], ...]:
    data = record.dataset
    return (
        ("dataset", data.name),
        ("classes", f"{data.num_classes:,}"),
        ("train images", f"{data.train_images:,} (content {data.train_fingerprint[:SHORT]})"),
        ("test images", f"{data.test_images:,} (content {data.test_fingerprint[:SHORT]})"),
        *([("skipped", f"{data.skipped_images:,} unreadable images")] if data.skipped_images else []),
    )


def _versions(records: Sequence[Record]) -> tuple[tuple[str, ...], ...]:
    """Return a row per package, a column per distinct set of versions."""
    sets = list(
        {
            json.dumps([made.versions, made.git, made.platform]): {
                **made.versions,
                **({"commit": made.git} if made.git else {}),
                **({"platform": made.platform} if made.platform else {}),
            }
            for made in (record.provenance for record in records)
        }.values()
    )
    names = dict.fromkeys(name for each in sets for name in each)
    header = ("package", *(("version",) if len(sets) == 1 else (f"version, set {n + 1}" for n in range(len(sets)))))
    return (header, *((name, *(each.get(name, "") for each in sets)) for name in names))
