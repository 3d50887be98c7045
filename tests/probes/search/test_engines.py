"""Engines: several devices share a block, GPUs give the CPU's answers, and what cannot be used is said."""

from __future__ import annotations

import faiss
import numpy as np
import pytest
import torch

import hjepa_eval.probes.search.engines as engines_module
from hjepa_eval.errors import ProbeError
from hjepa_eval.probes.knn import knn
from hjepa_eval.probes.samples import Samples
from hjepa_eval.probes.search.engines import Engine, choose_engine, largest
from hjepa_eval.probes.search.search import nearest

METRICS = ("cosine", "euclidean")


@pytest.fixture(scope="module")
def crowd() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(5)
    bank = generator.normal(size=(900, 16)).astype(np.float32)
    bank[400:700] = bank[:300]
    return bank, np.concatenate([bank[:10], generator.normal(size=(50, 16)).astype(np.float32)])


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Pretend that torch and FAISS see two GPUs; FAISS searches on the CPU and notes which GPU was asked."""
    asked: list[int] = []

    def knn_gpu(resources: object, queries: np.ndarray, bank: np.ndarray, k: int, *, metric: int, device: int):
        assert k <= 2048
        asked.append(device)
        return faiss.knn(queries, bank, k, metric=metric)

    monkeypatch.setattr(engines_module, "_trial", lambda number: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 2)
    monkeypatch.setattr(faiss, "knn_gpu", knn_gpu, raising=False)
    monkeypatch.setattr(faiss, "StandardGpuResources", object, raising=False)
    monkeypatch.setattr(engines_module, "_gpu_resources", lambda number: number)
    return asked


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("backend", ["faiss", "torch"])
@pytest.mark.parametrize("block_rows", [2, 101, 5000])
def test_engine__devices_share_each_block_and_the_answer_stays(
    crowd, monkeypatch: pytest.MonkeyPatch, metric: str, backend: str, block_rows: int
) -> None:
    alone = nearest(*crowd, k=25, metric=metric)
    three = Engine(backend, ("cpu", "cpu", "cpu"))
    monkeypatch.setattr("hjepa_eval.probes.search.search.choose_engine", lambda *_, **__: three)
    shared = nearest(*crowd, k=25, metric=metric, block_rows=block_rows)
    assert (shared.index == alone.index).all()


@pytest.mark.parametrize("metric", METRICS)
def test_engine__faiss_searches_on_all_gpus(crowd, two_gpus: list[int], metric: str) -> None:
    found = nearest(*crowd, k=25, metric=metric, device="cuda", block_rows=300)
    assert found.backend == "faiss-cuda"
    assert sorted(two_gpus) == [0, 0, 0, 1, 1, 1]
    assert (found.index == nearest(*crowd, k=25, metric=metric).index).all()
    two_gpus.clear()
    nearest(*crowd, k=25, metric=metric, device="cuda:1")
    assert two_gpus == [1]


def test_choose_engine__torch_selects_where_faiss_on_a_gpu_cannot(
    two_gpus: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert choose_engine("auto", "cuda", count=2048) == Engine("faiss", ("cuda:0", "cuda:1"))
    assert choose_engine("auto", "cuda", count=2049) == Engine("torch", ("cuda:0", "cuda:1"))
    assert choose_engine("torch", "cuda:1").name == "torch-cuda"
    with pytest.raises(
        ProbeError, match=r"at most 2048 neighbours, not 3000.*use the backend torch, or the device cpu"
    ):
        choose_engine("faiss", "cuda", count=3000)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    assert choose_engine("auto", "cuda") == Engine("torch", ("cuda:0", "cuda:1"))
    with pytest.raises(ProbeError, match="it sees 1 GPUs, not cuda:0, cuda:1"):
        choose_engine("faiss", "cuda")
    monkeypatch.delattr(faiss, "knn_gpu")
    with pytest.raises(ProbeError, match="has no GPU functions"):
        choose_engine("faiss", "cuda:0")
    assert choose_engine("auto", "cpu", count=3000) == Engine("faiss", ("cpu",))


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "cpu:0", "cuda:-1", ""])
def test_choose_engine__unknown_devices_are_refused(device: str) -> None:
    with pytest.raises(ProbeError, match="device cpu, cuda or cuda:0, found"):
        choose_engine("auto", device)


def test_choose_engine__absent_devices_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ProbeError, match="the device cuda is not among the 0 CUDA devices visible here; use cpu"):
        nearest(np.eye(3, dtype=np.float32), k=1, device="cuda")
    monkeypatch.setattr(engines_module, "_trial", lambda number: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ProbeError, match="cuda:2 is not among the 2"):
        choose_engine("auto", "cuda:2")


@pytest.mark.skipif(not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="torch before 2.9")
def test_engine__reduced_precision_of_the_program_is_left_out_and_put_back(
    crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = []
    search = engines_module._search_torch

    def look(*arguments: object):
        inside.append((torch.backends.cuda.matmul.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision))
        return search(*arguments)

    monkeypatch.setattr(engines_module, "_search_torch", look)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        found = nearest(*crowd, k=3, backend="torch")
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert inside == [("ieee", "ieee")]
    assert (found.index == nearest(*crowd, k=3).index).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("backend", ["auto", "torch"])
@pytest.mark.parametrize("leave_one_out", [False, True])
def test_gpu__finds_what_the_cpu_finds(
    digits: tuple[Samples, Samples], metric: str, backend: str, leave_one_out: bool
) -> None:
    train, test = digits
    queries = None if leave_one_out else test.features
    cpu = nearest(train.features, queries, k=200, metric=metric)
    gpu = nearest(train.features, queries, k=200, metric=metric, backend=backend, device="cuda", block_rows=500)
    assert gpu.backend.endswith("-cuda")
    assert (gpu.index == cpu.index).all()
    assert np.allclose(gpu.similarity, cpu.similarity, rtol=1e-5, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu__k_above_the_limit_of_faiss_and_knn(digits: tuple[Samples, Samples]) -> None:
    generator = np.random.default_rng(0)
    bank, queries = (generator.normal(size=(rows, 32)).astype(np.float32) for rows in (5000, 20))
    found = nearest(bank, queries, k=3000, device="cuda")
    assert found.backend == "torch-cuda"
    assert (found.index == nearest(bank, queries, k=3000).index).all()
    assert knn(*digits, num_classes=10, device="cuda").scores == knn(*digits, num_classes=10).scores


def test_largest__are_those_of_a_full_selection() -> None:
    values = torch.randn(7, 64 * 40 + 13, generator=torch.Generator().manual_seed(0))
    values[0, -1] = 9.0
    for count in (1, 9):
        expected = values.topk(count, dim=1)
        found, columns = largest(values, count)
        assert torch.equal(found, expected.values)
        assert torch.equal(columns, expected.indices)
