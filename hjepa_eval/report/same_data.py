"""What one table or page may hold: records of the same images, and of one version of each protocol."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hjepa_eval.errors import ResultError, first_few
from hjepa_eval.results import DatasetInfo, Record


def check_same_data(records: Sequence[Record]) -> None:
    """Check that records belong in one table.

    Raises:
        ResultError: they are of different images, or of different versions of a protocol; the message says which.
    """
    data = {record.dataset.key: record.dataset for record in records}
    if len(data) > 1:
        names = {info.name for info in data.values()}
        advice = "name one with --dataset" if len(names) == len(data) else "name the files of one"
        raise ResultError(f"one table or page cannot mix datasets: {first_few(map(_images, data.values()))}; {advice}")
    check_versions(records)


def check_versions(records: Sequence[Record], files: Sequence[Path] = ()) -> None:
    """Check that records of the same images and protocol are of one version of it.

    Args:
        records: of any images.
        files: where each was read, for the message.

    Raises:
        ResultError: they are not; the message names both models, files and versions.
    """
    found: dict[tuple, tuple[int, str]] = {}
    for place, record in enumerate(records):
        where = f" in {files[place]}" if files else ""
        said = f"version {record.protocol_version} of {record.model.name}{where}"
        version, other = found.setdefault((record.dataset.key, record.protocol), (record.protocol_version, said))
        if version != record.protocol_version:
            raise ResultError(
                f"one table cannot mix versions of the protocol {record.protocol}: {other}, {said}; "
                "run the older one again, or name the files to show"
            )


def _images(info: DatasetInfo) -> str:
    return f"{info.name} ({info.train_images:,} train, {info.test_images:,} test images, {info.test_fingerprint[:8]})"
