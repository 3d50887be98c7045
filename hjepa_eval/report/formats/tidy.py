"""The numbers for programs: tidy rows, as CSV and as JSON beside the tables."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from hjepa_eval.report.tables.costs import conditions
from hjepa_eval.report.tables.selection import Selection, by_data, select_records
from hjepa_eval.report.tables.standing import Standing
from hjepa_eval.report.tables.table import Row, Table, build_table, store_bytes
from hjepa_eval.results.records import LevelResult, Record, Score
from hjepa_eval.results.text import csv_field

# What is said of the highest level's test against the runner-up.
_OF_TEST = ("difference", "low", "high", "p_holm", "test")


def tidy(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Return one flat row per number, all parameters included.

    `delta`, `best` and `runner_up` are as in the table, for scores of no column too; `parameters` are the score's,
    `protocol_parameters` all of its record as JSON, `encoder_parameters` the weights read up to the level; `fused` are
    the levels joined. Records that `left_out` names have no rows.

    Raises:
        ResultError: records of one dataset are of different versions of a protocol.
    """
    rows = []
    for selection in map(select_records, by_data(records)):
        rows += [
            _tidy_row(selection, record, level, score)
            for record in selection.records
            for level in record.levels
            for score in level.scores
        ]
    return rows


def _tidy_row(selection: Selection, record: Record, level: LevelResult, score: Score) -> dict[str, Any]:
    standing, cost = selection.standing(record, level, score), level.cost
    test = standing.test
    return {
        "model": record.model.title,
        "weights": record.model.weights,
        "baseline": selection.beaten(record),
        "dataset": record.dataset.name,
        "train_images": record.dataset.train_images,
        "test_images": record.dataset.test_images,
        "test_fingerprint": record.dataset.test_fingerprint,
        "readout": record.extraction.readout,
        "precision": record.extraction.precision,
        "storage": record.extraction.storage,
        "probe": record.probe,
        "protocol": record.protocol,
        "protocol_version": record.protocol_version,
        "protocol_parameters": json.dumps(record.parameters),
        "level": level.level,
        "level_name": level.name,
        "joined": bool(level.fused),
        "fused": ";".join(map(str, level.fused)),
        "metric": score.metric,
        "parameters": ";".join(f"{name}={value}" for name, value in score.parameters.items()),
        "headline": score.headline,
        "value": score.value,
        "std": score.std,
        "values": ";".join(map(str, score.values)),
        "low": score.low,
        "high": score.high,
        "interval": score.interval,
        "num_samples": score.num_samples,
        "seed": ";".join(map(str, record.seeds)) or record.provenance.seed,
        "best": standing.best,
        "delta": standing.delta,
        "runner_up_level": standing.rival,
        **{f"runner_up_{name}": None if test is None else getattr(test, name) for name in _OF_TEST},
        "apart": standing.apart,
        "width": level.width,
        "tokens": level.tokens,
        "gflop": None if cost is None else cost.gflop,
        "milliseconds": None if cost is None else cost.milliseconds,
        "timed": "" if cost is None else conditions(cost),
        "encoder_parameters": None if cost is None else cost.parameters,
        "store_bytes": store_bytes(record, level),
    }


def as_csv(records: Sequence[Record]) -> str:
    """Return tidy CSV: one row per number."""
    return csv_text(tidy(records))


def csv_text(rows: Sequence[dict[str, Any]]) -> str:
    """Return rows of the same keys as CSV with a header; None is an empty field."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else ["model"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {name: csv_field(value) if isinstance(value, str) else value for name, value in row.items()} for row in rows
    )
    return text.getvalue()


def as_json(records: Sequence[Record]) -> str:
    """Return the tables, one per dataset, and the tidy numbers as JSON."""
    tables = [asdict_table(build_table(select_records(part))) for part in by_data(records)]
    return json.dumps({"tables": tables, "scores": tidy(records)}, indent=2) + "\n"


def asdict_table(table: Table) -> dict[str, Any]:
    """Return a table as JSON values."""
    return {**asdict(table), "rows": [_row(row, table.columns) for row in table.rows]}


def _row(row: Row, columns: Sequence[str]) -> dict[str, Any]:
    cells = [
        None
        if cell is None
        else {
            **cell.score.model_dump(mode="json"),
            "best": cell.standing.best,
            "apart": cell.standing.apart,
            "delta": cell.standing.delta,
            "runner_up": _runner_up(cell.standing),
        }
        for cell in row.cells
    ]
    cost = None if row.cost is None else row.cost.model_dump(mode="json")
    return {**vars(row), "cost": cost, "cells": dict(zip(columns, cells, strict=True))}


def _runner_up(standing: Standing) -> dict[str, Any] | None:
    test = standing.test
    return None if test is None else {"level": standing.rival, **{name: getattr(test, name) for name in _OF_TEST}}
