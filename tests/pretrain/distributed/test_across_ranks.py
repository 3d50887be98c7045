"""Two ranks with half of a batch each: averaged gradients and values are those of one process with all of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from forked import Forked, finish
from hjepa_pretrain.objectives.vicreg import variance_hinge

TERMS = [
    "rows",
    "mean",
    "level",
    "cycle",
    "invariance",
    "variance",
    "covariance",
    "vicreg",
    "sigreg",
    "contrast",
    "training_loss",
    "compiled",
]

# A linear model of images; each rank sees its rows, and averages its gradient and its loss with the others' as DDP
# does. Validity is uneven, so that ranks have different numbers of valid cells.
PROGRAM = """
import sys, torch, torch.distributed as dist
from hjepa_pretrain.distributed.across_ranks import as_one_rank, gather_rows, mean_over_ranks
from hjepa_pretrain.config.settings import TrainSettings
from hjepa_pretrain.objectives.contrast import contrast
from hjepa_pretrain.objectives.losses import cycle_consistency, level_loss
from hjepa_pretrain.objectives.objective import training_loss
from hjepa_pretrain.objectives.sigreg import sigreg, sigreg_directions
from hjepa_pretrain.objectives.vicreg import covariance_penalty, invariance, variance_hinge, vicreg

rank, count, out, names = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4].split(",")
torch.set_num_threads(1)
generator = torch.Generator().manual_seed(0)
images, others, targets = (torch.randn(12, 10, generator=generator) for _ in range(3))
model = torch.randn(10, 10, generator=generator) / 4
cells = torch.tensor([[1, 1]] * 6 + [[1, 0]] * 5 + [[0, 0]]).bool()
directions = sigreg_directions(10, 32, generator=generator)
own = slice(rank * 12 // count, (rank + 1) * 12 // count)
images, others, targets, cells = images[own], others[own], targets[own].reshape(-1, 2, 5), cells[own]
whole = dict(invariance=1.5, contrast=.5, predict=2, variance=.7, covariance=.3, sigreg=5, temperature=.5)
settings = TrainSettings(level_weights=(1.0, .5), whole_image=whole)

def step(first, second):
    tokens = first.reshape(-1, 2, 5)
    outputs = {
        "predictions": [tokens, tokens[:, :1]], "targets": [targets, targets[:, :1]], "valid": [cells, cells[:, 1:]],
        "projections": torch.stack((first, second, first * second)),
        "global_prediction": first, "global_target": targets.flatten(1),
    }
    return training_loss(outputs, settings, directions=directions)[0]

terms = {
    "rows": lambda a, b: (gather_rows(a).cumsum(dim=0).square()).mean(),
    "mean": lambda a, b: mean_over_ranks(a.square().mean(dim=0)).square().sum(),
    "level": lambda a, b: level_loss(a.reshape(-1, 2, 5), targets, cells),
    "cycle": lambda a, b: cycle_consistency(a.reshape(-1, 2, 5), b.reshape(-1, 2, 5), valid=cells),
    "invariance": invariance,
    "variance": lambda a, b: variance_hinge(a),
    "covariance": lambda a, b: covariance_penalty(a),
    "vicreg": vicreg,
    "sigreg": lambda a, b: sigreg(a, directions),
    "contrast": lambda a, b: contrast(a, b, temperature=.5),
    "training_loss": step,
    "compiled": torch.compile(step, fullgraph=True, backend="aot_eager"),
}
if count > 1:
    dist.init_process_group("gloo", init_method="file://" + out + ".meeting", rank=rank, world_size=count)
results = {}
for name in names:
    weight = model.clone().requires_grad_()
    loss = terms[name](images @ weight, others @ weight)
    loss.backward()
    result = torch.cat((loss.detach().reshape(1), weight.grad.flatten()))
    if count > 1:
        dist.all_reduce(result)
    results[name] = result / count
if rank == 0:
    with as_one_rank():  # The other rank is not asked.
        results["own rows"] = variance_hinge(images @ model / 4)
    torch.save(results, out)
if count > 1:
    dist.destroy_process_group()
"""


def run(folder: Path, count: int, names: list[str]) -> dict[str, torch.Tensor]:
    """Return loss and gradient of every term, averaged over `count` processes."""
    program, out = folder / "program.py", folder / f"of_{count}.pt"
    program.write_text(PROGRAM)
    ranks = [Forked([program, rank, count, out, ",".join(names)]) for rank in range(count)]
    said, codes = finish(*ranks)
    assert codes == [0] * count, said
    results: dict[str, torch.Tensor] = torch.load(out, weights_only=True)
    return results


@pytest.fixture(scope="module")
def alone_and_together(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, dict]:
    folder = tmp_path_factory.mktemp("ranks")
    return run(folder, 1, TERMS), run(folder, 2, TERMS)


@pytest.mark.parametrize("name", TERMS)
def test_across_ranks__averaged_gradients_and_values_are_those_of_one_process(
    name: str, alone_and_together: tuple[dict, dict]
) -> None:
    alone, together = alone_and_together
    assert alone[name][1:].abs().max() > 1e-4, "a gradient of zero would prove nothing"
    torch.testing.assert_close(together[name], alone[name], rtol=1e-4, atol=1e-6)


def test_as_one_rank__statistics_are_those_of_the_own_rows(alone_and_together: tuple[dict, dict]) -> None:
    generator = torch.Generator().manual_seed(0)
    images, _, _ = (torch.randn(12, 10, generator=generator) for _ in range(3))
    model = torch.randn(10, 10, generator=generator) / 4
    for results, rows in zip(alone_and_together, (12, 6), strict=True):
        torch.testing.assert_close(results["own rows"], variance_hinge(images[:rows] @ model / 4))


def test_across_ranks__compiled_is_as_eager(alone_and_together: tuple[dict, dict]) -> None:
    for results in alone_and_together:
        torch.testing.assert_close(results["compiled"], results["training_loss"], rtol=1e-4, atol=1e-6)
