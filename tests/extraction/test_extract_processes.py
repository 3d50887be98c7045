"""Several processes, killed processes and ranks: the store comes out the same, byte for byte."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from forked import Forked, finish, rank_processes

# The program itself, with small shards so that few images make many; and ranks that die in the middle when told to.
PROGRAM = """
import os, signal
from hjepa_eval.features import manifest as ranges, writer
ranges.SHARD_SIZE = 32
written = writer.StoreWriter.write
def write(self, part, *rest):
    written(self, part, *rest)
    if os.environ.get("RANK", "alone") in os.environ.get("DIES", "") and "-" in part.file:
        DIED = os.environ["DIED"]
        with open(DIED, "a") as file:
            file.write(part.file)
        os.kill(os.getpid(), signal.SIGKILL)
writer.StoreWriter.write = write
from hjepa_eval.cli import main
main()
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return path


def arguments(root: Path, cache: Path) -> list[str]:
    model = ["--model", "random:vit_tiny_patch8_32", "--readout", "mean,cls", "--compile", "off"]
    return [
        "extract",
        *model,
        "--dataset",
        "cifar10",
        "--root",
        str(root),
        "--cache-dir",
        str(cache),
        "--batch-size",
        "16",
    ]


def start(words: Sequence[object], **environment: str) -> Forked:
    return Forked(words, env={**os.environ, **environment})


def complete(*processes: Forked) -> str:
    """Wait for processes that end well, and return what they said."""
    said, codes = finish(*processes)
    assert codes == [0] * len(processes), said
    return said


def stores(cache: Path) -> dict[str, bytes]:
    folder = cache / "features"
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def wait_for_shards(cache: Path, count: int, process: Forked) -> None:
    while len(list(cache.glob("features/*/*/*/*.safetensors"))) < count:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


@pytest.fixture(scope="module")
def undisturbed(cifar10_sample: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The stores of one process that nothing disturbed, with two threads."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "program.py").write_text(PROGRAM)
    process = start([folder / "program.py", *arguments(cifar10_sample, folder)], OMP_NUM_THREADS="2")
    complete(process)
    return stores(folder)


def test_extract__two_processes_split_the_work_into_one_store(
    program: Path, cifar10_sample: Path, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    command = [program, *arguments(cifar10_sample, tmp_path / "c"), "--json"]
    both = [start(command), start(command)]
    said = [complete(process) for process in both]
    assert stores(tmp_path / "c") == undisturbed
    images = [
        sum(map(int, re.findall(r'"readout": "mean".*?"forward_images": (\d+)', text, re.DOTALL))) for text in said
    ]
    assert sum(images) == 600, "each image goes through one encoder only"


def test_extract__killed_at_any_moment_it_goes_on_to_the_same_bytes(
    program: Path, cifar10_sample: Path, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    command = [program, *arguments(cifar10_sample, tmp_path / "c")]
    for shards in (1, 8, 15):
        process = start(command)
        wait_for_shards(tmp_path / "c", shards, process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    damaged = sorted((tmp_path / "c").glob("features/*/*/*/*.safetensors"))[0]
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    said = complete(start(command))
    assert re.search(r"process \d+ on \S+ ended while it extracted images \d+-\d+; they are done again", said)
    assert stores(tmp_path / "c") == undisturbed
    assert not list((tmp_path / "c" / "claims").iterdir())


@pytest.mark.parametrize("dying", ["1", "01"])
def test_extract__a_dead_rank_is_named_and_its_shards_are_finished(
    program: Path, cifar10_sample: Path, tmp_path: Path, undisturbed: dict[str, bytes], dying: str
) -> None:
    words = [program, *arguments(cifar10_sample, tmp_path / "c")]
    said, codes = finish(*rank_processes(words, 2, DIES=dying, DIED=str(tmp_path / "died")))
    assert codes == [-signal.SIGKILL if str(rank) in dying else 0 for rank in range(2)]
    assert (tmp_path / "died").exists(), said
    again = complete(*rank_processes(words, 2))
    # By the rank that is left, or by the next call.
    named = said if dying == "1" else again
    assert re.search(r"rank 1 of 2 \(process \d+ on \S+\) ended while it extracted", named), named
    assert stores(tmp_path / "c") == undisturbed
    assert len(re.findall(r"^train, mean: 400 images", again, flags=re.MULTILINE)) == 1, "rank 0 alone speaks"


MEMORY = """
import resource, sys
import numpy as np, torch
from pathlib import Path
from hjepa_eval.datasets.protocol import ImageDataset
from hjepa_eval.encoders import load_encoder
from hjepa_eval.extraction.extract import Compute, extract
from hjepa_eval.features import manifest as ranges
ranges.SHARD_SIZE = 64

class Noise(ImageDataset):
    name, split, class_names, fingerprint = "noise", "train", ("a", "b"), "0" * 64
    def __init__(self, count):
        self.labels = np.arange(count) % 2
    def image(self, index):
        return torch.full((3, 64, 64), index % 256, dtype=torch.uint8)

extract(load_encoder("pixels:64"), Noise(int(sys.argv[1])), readouts=["mean"], cache_dir=Path(sys.argv[2]),
        settings=Compute("cpu", "fp32", batch_size=32))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_extract__peak_memory_does_not_depend_on_the_number_of_images(tmp_path: Path) -> None:
    # 49 kB of features an image: ten times more images are 280 MB more on disk.
    peaks = [
        int(complete(start(["-c", MEMORY, count, tmp_path / str(count)])).split()[0]) / 1024 for count in (640, 6400)
    ]
    assert peaks[1] - peaks[0] < 40, peaks
