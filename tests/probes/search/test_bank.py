"""Banks read block by block: the answers of arrays in memory, the same checks, and little memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import hjepa_eval.probes.samples as samples_module
import hjepa_eval.probes.search.search as search_module
from hjepa_eval.errors import ProbeError
from hjepa_eval.probes.knn import knn
from hjepa_eval.probes.samples import Samples, StreamedSamples
from hjepa_eval.probes.search.bank import ArrayBank, as_bank, make_space
from hjepa_eval.probes.search.search import nearest


class Shelf:
    """A bank of pieces of unlike length, as shards are; it is no array and counts how often it is read."""

    def __init__(self, array: np.ndarray) -> None:
        self.shape = array.shape
        self.passes = 0
        self._array = array

    def blocks(self, rows: int) -> Iterator[np.ndarray]:
        self.passes += 1
        for start in range(0, len(self._array), rows):
            yield self._array[start : start + rows].astype(np.float32)

    def rows(self, index: np.ndarray) -> np.ndarray:
        assert (np.diff(index) >= 0).all(), "a bank on disk must be read from front to end"
        return self._array[index].astype(np.float32)


@pytest.fixture(scope="module")
def crowd() -> tuple[np.ndarray, np.ndarray]:
    """Rows of which many occur again in other blocks, so that ties cross every border; 100 are one row."""
    generator = np.random.default_rng(3)
    bank = generator.normal(size=(700, 12)).astype(np.float32)
    bank[300:500] = bank[:200]
    bank[550:650] = bank[5]
    return bank, np.concatenate([bank[:15], generator.normal(size=(45, 12)).astype(np.float32)])


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("block_rows", [7, 64, 699, 10_000])
@pytest.mark.parametrize("leave_one_out", [False, True])
def test_nearest__a_streamed_bank_has_the_answers_of_an_array(
    crowd, monkeypatch: pytest.MonkeyPatch, metric: str, block_rows: int, leave_one_out: bool
) -> None:
    bank, queries = crowd[0], None if leave_one_out else crowd[1]
    memory = nearest(bank, queries, k=20, metric=metric)
    monkeypatch.setattr(search_module, "_PIECE_ELEMENTS", 29 * 8 * 40)  # queries in pieces too
    streamed = nearest(Shelf(bank), queries, k=20, metric=metric, block_rows=block_rows)
    assert (streamed.index == memory.index).all()
    assert np.allclose(streamed.similarity, memory.similarity, rtol=0, atol=2e-5)


def test_nearest__queries_in_pieces_are_many_reads_and_one_answer(crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    bank, queries = crowd
    whole, shelf = nearest(bank, queries, k=3), Shelf(bank)
    monkeypatch.setattr(search_module, "_PIECE_ELEMENTS", 16 * 8 * 11)
    assert (nearest(shelf, queries, k=3).index == whole.index).all()
    assert shelf.passes >= 4  # 60 queries, 16 at a time


def test_space__a_row_far_away_moves_neither_centre_nor_scale(crowd) -> None:
    bank = crowd[0] * 3 + 100
    plain = make_space(as_bank(bank), "euclidean")
    bank[5] *= 1e6
    beside = make_space(as_bank(bank), "euclidean")
    assert beside.scale == plain.scale
    assert np.log2(plain.scale) == np.round(np.log2(plain.scale))
    assert (beside.centre - plain.centre).abs().max() < plain.scale / 10


@pytest.mark.parametrize("kind", [np.float16, np.float64])
def test_nearest__other_float_types_are_searched_as_float32(crowd, kind: type) -> None:
    bank, queries = (np.round(rows * 64) / 64 for rows in crowd)  # exact in 16 bits
    found = nearest(bank.astype(kind), queries.astype(kind), k=9)
    assert (found.index == nearest(bank, queries, k=9).index).all()


def test_nearest__a_read_only_memory_map_is_a_bank(crowd, tmp_path: Path) -> None:
    np.save(tmp_path / "bank.npy", crowd[0])
    mapped = np.load(tmp_path / "bank.npy", mmap_mode="r")
    assert (nearest(mapped, crowd[1], k=4).index == nearest(*crowd, k=4).index).all()


def test_array_bank__gives_views_and_gathers(crowd) -> None:
    bank = ArrayBank(crowd[0])
    assert all(np.shares_memory(block, crowd[0]) for block in bank.blocks(100))
    np.testing.assert_array_equal(bank.rows(np.array([5, 2, 5])), crowd[0][[5, 2, 5]])
    assert bank.shape == (700, 12)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("leave_one_out", [False, True])
def test_knn__streamed_samples_score_as_samples_in_memory(
    digits: tuple[Samples, Samples], monkeypatch: pytest.MonkeyPatch, metric: str, leave_one_out: bool
) -> None:
    train, test = digits[0].take(np.arange(1297)), digits[1]
    train.features[[4, 9]] = 0
    monkeypatch.setattr(samples_module, "rows_per_block", lambda bank: 100)
    monkeypatch.setattr(search_module, "rows_per_block", lambda bank: 300)
    monkeypatch.setattr(search_module, "_PIECE_ELEMENTS", 200 * 8 * 109)
    asked = {"test": None if leave_one_out else test, "leave_one_out": leave_one_out, "num_classes": 10}
    memory = knn(train, ks=(5, 100), metric=metric, **asked)
    streamed = knn(StreamedSamples(Shelf(train.features), train.labels), ks=(5, 100), metric=metric, **asked)
    assert (streamed.scores, streamed.top5) == (memory.scores, memory.top5)
    assert all((streamed.predictions[k] == memory.predictions[k]).all() for k in (5, 100))
    assert streamed.notes == memory.notes
    assert any("2 of 1297 train features are zero vectors" in note for note in memory.notes) == (metric == "cosine")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_knn__bad_values_in_a_stream_are_refused_as_in_memory(
    digits: tuple[Samples, Samples], monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    train, test = digits[0].take(np.arange(500)), digits[1]
    train.features[[211, 340], 3] = value
    monkeypatch.setattr(samples_module, "rows_per_block", lambda bank: 100)
    says = "2 of 500 train features hold NaN or infinity, the first at row 211; .*--precision fp32"
    for samples in (train, StreamedSamples(Shelf(train.features), train.labels)):
        with pytest.raises(ProbeError, match=says):
            knn(samples, test, num_classes=10)


def test_knn__float16_features_work_and_their_overflow_is_refused(digits: tuple[Samples, Samples]) -> None:
    train, test = digits
    halves = train.features.astype(np.float16)  # digits are small whole numbers
    expected = knn(train, test, num_classes=10)
    with np.errstate(over="ignore"):
        overflown = (train.features * 5000).astype(np.float16)
    for kind in (Samples, lambda features, labels: StreamedSamples(ArrayBank(features), labels)):
        found = knn(kind(halves, train.labels), test, num_classes=10)
        assert found.scores == expected.scores
        with pytest.raises(ProbeError, match="NaN or infinity"):
            knn(kind(overflown, train.labels), test, num_classes=10)


def test_knn__streams_are_checked_like_arrays(digits: tuple[Samples, Samples]) -> None:
    train, test = digits
    flat = StreamedSamples(Shelf(np.ones_like(train.features)), train.labels)
    assert "all train features are equal: this level carries no information" in knn(flat, test, num_classes=10).notes
    with pytest.raises(ProbeError, match=r"shape \[0, 64\]"):
        knn(StreamedSamples(Shelf(train.features[:0]), train.labels[:0]), test, num_classes=10)
    with pytest.raises(ProbeError, match="train labels have shape"):
        knn(StreamedSamples(Shelf(train.features), train.labels[1:]), test, num_classes=10)
    with pytest.raises(ProbeError, match="63 dimensions"):
        knn(StreamedSamples(Shelf(train.features[:, 1:]), train.labels), test, num_classes=10)
    with pytest.raises(ProbeError, match="all 1297 train samples are of class 3"):
        knn(StreamedSamples(Shelf(train.features), np.full(1297, 3)), test, num_classes=10)
    few = knn(StreamedSamples(Shelf(train.features[:30]), train.labels[:30]), test, num_classes=10)
    assert few.ks_clipped == {100: 30, 200: 30}


MEASURE = """
import sys
from pathlib import Path
import numpy as np
from hjepa_eval.probes.knn import knn
from hjepa_eval.probes.samples import Samples, StreamedSamples

def memory(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

class Generated:
    "200,000 x 128 numbers, 102 MB, of which only what is asked for ever exists."
    shape = (200_000, 128)
    step = 2_000

    def blocks(self, rows):
        for start in range(0, self.shape[0], rows):
            yield self.rows(np.arange(start, min(start + rows, self.shape[0])))

    def rows(self, index):
        found = np.empty((len(index), 128), np.float32)
        for part in np.unique(index // self.step):
            own = index // self.step == part
            rows = np.random.default_rng(part).random((self.step, 128), np.float32)
            found[own] = rows[index[own] % self.step]
        return found

test = Samples(np.random.default_rng(0).random((40, 128), np.float32), np.arange(40) % 2)
metric = sys.argv[1]
knn(Samples(test.features, test.labels), test, num_classes=2, ks=(5,), metric=metric)
before = memory("VmRSS")
knn(StreamedSamples(Generated(), np.arange(200_000) % 2), test, num_classes=2, ks=(5,), metric=metric)
print(memory("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_knn__streaming_takes_far_less_memory_than_the_bank(metric: str) -> None:
    # Blocks of 2 MB, as small against this bank as 128 MB against one of 1.3 million rows.
    small = "import hjepa_eval.probes.search.bank as bank\nbank.rows_per_block.__kwdefaults__['elements'] = 1 << 19\n"
    done = subprocess.run([sys.executable, "-c", small + MEASURE, metric], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 0.5 * 200_000 * 128 * 4
