from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path

from hjepa_eval.encoders.run_facts import read_metrics, thin


def test_metrics__of_a_run_are_its_rows(digits_run: Path) -> None:
    lines = (digits_run / "metrics.jsonl").read_text().splitlines()
    assert read_metrics(digits_run) == tuple(json.loads(line) for line in lines)
    assert "knn" in read_metrics(digits_run)[-1]


def test_metrics__of_a_checkpoint_end_with_it(digits_run: Path) -> None:
    checkpoint = sorted(digits_run.glob("checkpoints/step-*"))[0]
    step = int(checkpoint.name.removeprefix("step-"))
    rows = read_metrics(checkpoint)
    assert rows == tuple(row for row in read_metrics(digits_run) if row["step"] <= step)
    assert 0 < len(rows) < len(read_metrics(digits_run))


def test_metrics__numbers_that_json_lacks_are_none_and_half_a_line_is_no_row(digits_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(digits_run, tmp_path / "run"))
    text = '{"step": 1, "losses": {"loss": NaN, "r2_0": -Infinity}, "std": [1e999, 0.5]}\n\n[1]\n{"step": 2, "lo'
    (run / "metrics.jsonl").write_text(text)
    assert read_metrics(run) == ({"step": 1, "losses": {"loss": None, "r2_0": None}, "std": [None, 0.5]},)
    (run / "metrics.jsonl").write_bytes(b"\xff\xfe")
    assert read_metrics(run) == ()
    (run / "metrics.jsonl").unlink()
    assert read_metrics(run) == ()


def test_thin__keeps_measurements_and_the_last_row_and_averages_nothing() -> None:
    rows = [{"step": step, "loss": 1 / step, **({"knn": [0.1]} if step % 100 == 0 else {})} for step in range(1, 1502)]
    kept = thin(rows, most=60)
    assert len(kept) == 60
    assert all(row in rows for row in kept)
    steps = [row["step"] for row in kept]
    assert steps == sorted(set(steps))
    assert set(range(100, 1501, 100)) | {1501, 1} <= set(steps)
    gaps = [after - before for before, after in pairwise(steps)]
    assert max(gaps) < 2 * 1501 / 44
    assert thin(rows[:60], most=60) == rows[:60]
    few = thin(rows, most=4)
    assert [row["step"] for row in few] == [100, 600, 1100, 1501]
