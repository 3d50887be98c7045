from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import flex_attention
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from hjepa_eval.datasets.transform import Transform
from hjepa_eval.encoders import Encoder, Level, load_encoder
from hjepa_eval.encoders.costs import OUTSIDE, encoder_costs, level_costs
from hjepa_eval.errors import EncoderError

SIZE = 8
SPECS = ["vit_tiny_patch4_32", "vit_tiny_patch4_32?taps=2,5,6", "resnet10t", "convnext_atto", "mobilenetv3_small_050"]
SWIN = "swin_tiny_patch4_window7_224"


class Toy(Encoder):
    """Levels of one token with 4 numbers, made by a function of the encoder and the image."""

    def __init__(self, make: Callable[[Toy, Tensor], list[Tensor]], count: int = 1) -> None:
        super().__init__()
        self.name, self.settings, self.transform = "toy", {}, Transform(SIZE, SIZE)
        self.levels = tuple(Level(index, "toy", 4, (1, 1)) for index in range(count))
        self.make = make
        self.weight = nn.Parameter(torch.randn(3 * SIZE * SIZE, 4))
        self.other = nn.Parameter(torch.randn(4, 4))
        self.unused = nn.Parameter(torch.randn(7))

    def forward(self, images: Tensor) -> list[Tensor]:
        return [output.reshape(len(images), 1, 4) for output in self.make(self, images)]

    def project(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.weight


PROJECT = 2 * 3 * SIZE * SIZE * 4
PROJECT_PARAMETERS = 3 * SIZE * SIZE * 4
OTHER = 2 * 4 * 4


def flop(encoder: Encoder) -> list[int]:
    return [round(cost.gflop * 1e9) for cost in level_costs(encoder)]


def parameters(encoder: Encoder) -> list[int]:
    return [cost.parameters for cost in level_costs(encoder)]


def counted_by_torch(run: Callable[[Tensor], object], size: int) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run(torch.zeros(1, 3, size, size))
    return counter.get_total_flops()


@pytest.mark.parametrize(
    ("spec", "taps", "tokens", "dim", "patch"),
    [
        ("random:vit_tiny_patch4_32", (4, 8, 12), 65, 192, 4),
        ("random:vit_tiny_patch4_32?taps=1,1,7", (1, 1, 7), 65, 192, 4),
        ("random:vit_tiny_patch4_32?taps=final", (12, 12, 12), 65, 192, 4),
        ("random:vit_small_patch16_224", (4, 8, 12), 197, 384, 16),
    ],
)
def test_level_costs__vit_as_computed_by_hand(spec: str, taps: tuple, tokens: int, dim: int, patch: int) -> None:
    inputs = 3 * patch**2
    # Query, key, value and output: 4 D^2; the MLP: 8 D^2; attention: scores and their sums, T^2 D each.
    block = 2 * 12 * tokens * dim**2 + 2 * 2 * tokens**2 * dim
    biases_and_norms = (3 + 1 + 4 + 1) * dim + 4 * dim
    encoder = load_encoder(spec)
    assert flop(encoder) == [2 * (tokens - 1) * inputs * dim + tap * block for tap in taps]
    before_and_after = (inputs + 1) * dim + dim + tokens * dim + 2 * dim
    assert parameters(encoder) == [before_and_after + tap * (12 * dim**2 + biases_and_norms) for tap in taps]


def test_level_costs__resnet18_is_twice_its_published_multiply_adds() -> None:
    costs = encoder_costs(load_encoder("random:resnet18"))
    classifier = 512 * 1000
    # torchvision's model card: 1.814 G multiply-adds, 11,689,512 parameters, with the classifier.
    assert costs.together.gflop + 2 * classifier / 1e9 == pytest.approx(2 * 1.814, abs=0.001)
    assert costs.together.parameters + classifier + 1000 == 11_689_512
    assert costs.levels[-1].gflop == costs.together.gflop


@pytest.mark.parametrize("name", [*SPECS, SWIN])
def test_level_costs__parameters_are_those_that_get_a_gradient(name: str) -> None:
    encoder = load_encoder(f"random:{name}")
    costs = level_costs(encoder)
    outputs = encoder(torch.randn(1, 3, encoder.transform.size, encoder.transform.size))
    weights = list(encoder.parameters())
    for cost, output in zip(costs, outputs, strict=True):
        grads = torch.autograd.grad(output.sum(), weights, retain_graph=True, allow_unused=True)
        reached = sum(weight.numel() for weight, grad in zip(weights, grads, strict=True) if grad is not None)
        assert cost.parameters == reached


@pytest.mark.parametrize("name", [*SPECS, SWIN])
def test_encoder_costs__total_is_that_of_torchs_own_counter(name: str) -> None:
    encoder = load_encoder(f"random:{name}")
    costs = encoder_costs(encoder)
    assert round(costs.together.gflop * 1e9) == counted_by_torch(encoder, encoder.transform.size)
    assert costs.levels[-1].gflop == costs.together.gflop
    assert costs.together.uncounted == ()


@pytest.mark.parametrize("name", ["resnet10t", "convnext_atto", SWIN])
def test_level_costs__a_stage_costs_what_a_model_that_stops_there_costs(name: str) -> None:
    encoder = load_encoder(f"random:{name}")

    def stop_at(stage: int) -> Callable[[Tensor], object]:
        return lambda image: encoder.model.forward_intermediates(
            image, indices=[stage], intermediates_only=True, stop_early=True
        )

    size = encoder.transform.size
    assert flop(encoder) == [counted_by_torch(stop_at(stage), size) for stage in encoder.indices]


def test_encoder_costs__branches_count_alone_and_the_trunk_once() -> None:
    def branches(toy: Toy, images: Tensor) -> list[Tensor]:
        trunk = toy.project(images)
        torch.randn(50, 50) @ torch.randn(50, 50)  # nobody reads this
        return [
            trunk @ toy.other,
            (trunk @ toy.other.t()) @ toy.other,
            images.mean((1, 2, 3)).repeat(4),
            toy.unused[:4],
        ]

    toy = Toy(branches, count=4)
    assert flop(toy) == [PROJECT + OTHER, PROJECT + 2 * OTHER, 0, 0]
    assert parameters(toy) == [PROJECT_PARAMETERS + 16, PROJECT_PARAMETERS + 16, 0, 7]
    together = encoder_costs(toy).together
    assert round(together.gflop * 1e9) == PROJECT + 3 * OTHER
    assert together.parameters == PROJECT_PARAMETERS + 16 + 7


def test_level_costs__writing_in_place_and_through_views_is_followed() -> None:
    def place(toy: Toy, images: Tensor) -> list[Tensor]:
        buffer = torch.zeros(len(images), 2, 4)
        buffer[:, 1] = toy.project(images).relu_()
        seen_before = buffer.view(-1, 8)
        product = torch.empty(len(images), 4)
        torch.mm(images.flatten(1)[:, :4], toy.other, out=product)
        sums = [torch.zeros(len(images), 4)]
        torch._foreach_add_(sums, [toy.project(images)])
        return [seen_before[:, 4:], product, sums[0]]

    toy = Toy(place, count=3)
    assert flop(toy) == [PROJECT, OTHER, PROJECT]
    assert parameters(toy) == [PROJECT_PARAMETERS, 16, PROJECT_PARAMETERS]


def test_level_costs__memory_that_is_used_again_has_no_past() -> None:
    def reuse(toy: Toy, images: Tensor) -> list[Tensor]:
        for _ in range(20):
            toy.project(images)  # freed at once; a tensor from numbers may get its place
            constant = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
        return [images.mean() + constant]

    assert flop(Toy(reuse)) == [0]
    assert parameters(Toy(reuse)) == [0]


def test_level_costs__einsum_unfold_and_groups() -> None:
    def features(toy: Toy, images: Tensor) -> list[Tensor]:
        windows = F.unfold(images, 4, stride=4)  # 4 windows of 48 numbers
        grouped = F.conv2d(images.repeat(1, 4, 1, 1), torch.ones(4, 3, 8, 8), groups=4)
        return [torch.einsum("bnw,nk->bk", windows, toy.weight[:48]), grouped]

    encoder = Toy(features, count=2)
    # einsum sums over w (4 windows) before the product over n.
    assert flop(encoder) == [2 * 48 * 4, 2 * 4 * 3 * 8 * 8]


class Layers(Encoder):
    """torch.nn's transformer layer on the 64 pixels of an image, with dropout and a batch norm before it."""

    def __init__(self) -> None:
        super().__init__()
        self.name, self.settings, self.transform = "layers", {}, Transform(SIZE, SIZE)
        self.levels = (Level(0, "layers", 32, (8, 8)),)
        self.norm = nn.BatchNorm2d(3)
        self.embed = nn.Conv2d(3, 32, 1)
        self.layer = nn.TransformerEncoderLayer(32, 4, dim_feedforward=48, batch_first=True)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [self.layer(self.embed(self.norm(images)).flatten(2).transpose(1, 2))]


class Inference(Layers):
    @torch.inference_mode()
    def forward(self, images: Tensor) -> list[Tensor]:
        return super().forward(images)


@pytest.mark.parametrize("kind", [Layers, Inference])
def test_level_costs__torchs_own_transformer_layers_count(kind: type[Layers]) -> None:
    embed = 2 * 64 * 3 * 32
    layer = 2 * 64 * (4 * 32**2 + 2 * 32 * 48) + 4 * 64**2 * 32
    encoder = kind().eval()
    assert flop(encoder) == [embed + layer]
    assert parameters(encoder) == [sum(weight.numel() for weight in encoder.parameters())]


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_level_costs__compiled_and_flexible_attention_count() -> None:
    product = torch.compile(lambda left, right: (left @ right).relu(), fullgraph=True)

    def attend(toy: Toy, images: Tensor) -> list[Tensor]:
        query = images.flatten(1)[:, :48].reshape(1, 1, 12, 4) @ toy.other
        return [flex_attention(query, query, query).mean(2), product(images.flatten(1), toy.weight)]

    assert flop(Toy(attend, count=2)) == [2 * 12 * 4 * 4 + 4 * 12**2 * 4, PROJECT]


def test_level_costs__attention_counts_where_torch_has_no_formula_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = load_encoder("random:vit_tiny_patch4_32?taps=1?levels=1")
    before = flop(encoder)
    # torch 2.7 and earlier.
    monkeypatch.delitem(flop_registry, torch.ops.aten._scaled_dot_product_flash_attention_for_cpu)
    assert flop(encoder) == before


def test_level_costs__leave_everything_as_it_was() -> None:
    encoder = Layers().train()
    encoder.embed.eval()
    weights = encoder.weights_hash()
    training = [module.training for module in encoder.modules()]
    first = level_costs(encoder)
    assert encoder.weights_hash() == weights  # with the batch norm's statistics
    assert [module.training for module in encoder.modules()] == training
    assert torch.backends.mha.get_fastpath_enabled()
    assert torch.is_grad_enabled()
    assert level_costs(encoder) == first


def test_level_costs__random_numbers_go_on_as_if_nothing_had_been() -> None:
    noisy = Toy(lambda toy, images: [toy.project(images + torch.randn(1))])
    state = torch.get_rng_state()
    assert flop(noisy) == [PROJECT]
    assert torch.equal(torch.get_rng_state(), state)


def test_level_costs__a_crash_in_the_encoder_restores_too() -> None:
    def crash(toy: Toy, images: Tensor) -> list[Tensor]:
        raise ZeroDivisionError

    encoder = Toy(crash).train()
    with pytest.raises(ZeroDivisionError):
        level_costs(encoder)
    assert encoder.training
    assert torch.backends.mha.get_fastpath_enabled()


def test_level_costs__work_without_a_formula_is_named() -> None:
    def distances(toy: Toy, images: Tensor) -> list[Tensor]:
        values = images.flatten(1)[:, :4]
        return [torch.cdist(values, toy.other, p=1.0), torch.softmax(values, 1)]

    costs = encoder_costs(Toy(distances, count=2))
    assert [cost.uncounted for cost in costs.levels] == [("aten._cdist_forward",), ()]
    assert [cost.parameters for cost in costs.levels] == [16, 0]
    assert costs.together.uncounted == ("aten._cdist_forward",)


def test_level_costs__an_encoder_that_leaves_torch_is_not_called_free() -> None:
    def leave(toy: Toy, images: Tensor) -> list[Tensor]:
        projected = toy.project(images)
        return [projected, torch.from_numpy(projected.detach().numpy() * 2)]

    costs = encoder_costs(Toy(leave, count=2))
    assert [cost.uncounted for cost in costs.levels] == [(), (OUTSIDE,)]


def test_level_costs__sparse_tensors_are_followed() -> None:
    def sparse(toy: Toy, images: Tensor) -> list[Tensor]:
        return [torch.mm(images.flatten(1).to_sparse(), toy.weight)]

    assert flop(Toy(sparse)) == [PROJECT]
    assert parameters(Toy(sparse)) == [PROJECT_PARAMETERS]


def test_level_costs__pixels_cost_nothing() -> None:
    (cost,) = level_costs(load_encoder("pixels"))
    assert (cost.level, cost.gflop, cost.parameters) == (0, 0.0, 0)


def test_level_costs__wrong_outputs_are_named() -> None:
    with pytest.raises(EncoderError, match="declares 2 levels and returned 1"):
        level_costs(Toy(lambda toy, images: [toy.project(images)], count=2))
