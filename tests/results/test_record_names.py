"""Names of records' files, and of models in tables."""

from __future__ import annotations

from made_records import record_of

from hjepa_eval.report.formats.named import FORMATS
from hjepa_eval.results.records import Record


def named(record: Record, **changes: str) -> Record:
    return record.model_copy(update={"model": record.model.model_copy(update=changes)})


def test_file_name__of_a_long_name_begins_with_a_word() -> None:
    long = "timm:vit_small_patch14_reg4_dinov2.lvd142m?checkpoint=weights/checkpoint0099.pth?taps=3,6,9,12"
    file = named(record_of(), name=long).file_name
    assert file.startswith("lvd142m-checkpoint-weights-")
    assert named(record_of(), name="\u00fc").file_name.startswith("unnamed__")
    assert named(record_of(), name="x" * 90).file_name.startswith("x" * 60 + "__")


def test_alias__stands_in_tables_and_file_names_and_is_no_part_of_the_key() -> None:
    plain = record_of(model="enc.py:late?checkpoint=weights/late.pth")
    record = named(plain, alias="late")
    assert record.file_name.startswith("late__")
    assert record.key == plain.key
    for kind in ("table", "md", "csv", "latex"):
        text = FORMATS[kind]([record])
        assert "late" in text
        # A command that can be typed has the whole name.
        assert "enc.py" not in "\n".join(line for line in text.splitlines() if "baselines" not in line)
