"""Every code block of the document on the generic framework, with our names; batch first, where it is not."""

from __future__ import annotations

import pytest
import torch
from hjepa_pretrain.jepa import (
    JEPA,
    AttentionPredictor,
    CNNEncoder,
    CrossModalEncoder,
    Encoder,
    HierarchicalPredictor,
    MLPEncoder,
    MultiScaleEncoder,
    Predictor,
    RecurrentPredictor,
)
from torch import Tensor, nn


class CustomCNNEncoder(nn.Module):
    def __init__(self, input_channels: int, hidden_dim: int) -> None:
        super().__init__()
        self.conv_net = nn.Sequential(
            nn.Conv2d(input_channels, 64, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d((1, 1)),
            nn.Flatten(),
            nn.Linear(64, hidden_dim),
        )

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.conv_net(x)
        return answer


class CustomPredictor(nn.Module):
    def __init__(self, hidden_dim: int) -> None:
        super().__init__()
        self.predictor = nn.Linear(hidden_dim, hidden_dim)

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.predictor(x)
        return answer


def learns(model: JEPA, state_t: object, state_t1: object, width: int) -> None:
    pred, target = model(state_t, state_t1)
    assert pred.shape[-1] == target.shape[-1] == width
    torch.autograd.backward(model.loss(pred, target))
    for part in (model.encoder, model.predictor):
        assert any(parameter.grad is not None and parameter.grad.any() for parameter in part.parameters())


@pytest.mark.rows("D1", "D2")
def test_basic_usage__encoder_and_predictor_of_one_width() -> None:
    encoder, predictor = Encoder(hidden_dim=256), Predictor(hidden_dim=256)
    learns(JEPA(encoder, predictor), torch.randn(4, 6, 256), torch.randn(4, 6, 256), 256)


@pytest.mark.rows("D1", "D5")
def test_vision__custom_encoder_and_predictor() -> None:
    batch_size, channels, height, width = 4, 3, 32, 32
    state_t, state_t1 = (torch.randn(batch_size, channels, height, width) for _ in range(2))
    learns(JEPA(CustomCNNEncoder(3, hidden_dim=256), CustomPredictor(256)), state_t, state_t1, 256)
    learns(JEPA(CNNEncoder(3, 64), Predictor(64)), state_t, state_t1, 64)


@pytest.mark.rows("D2", "D5")
def test_language__a_transformer_of_vectors_or_of_token_numbers() -> None:
    seq_length, batch_size, hidden_dim = 12, 4, 64
    vectors = [torch.randn(seq_length, batch_size, hidden_dim).transpose(0, 1) for _ in range(2)]  # batch first
    learns(JEPA(Encoder(64, pooling="none"), AttentionPredictor(64)), *vectors, 64)
    numbers = [torch.randint(0, 30, (batch_size, seq_length)) for _ in range(2)]
    learns(JEPA(Encoder(64, vocab_size=30, pooling="none"), RecurrentPredictor(64)), *numbers, 64)


@pytest.mark.rows("D2", "D5")
def test_time_series__steps_of_ten_features() -> None:
    time_steps, batch_size, features = 20, 4, 10
    states = [torch.randn(time_steps, batch_size, features).transpose(0, 1) for _ in range(2)]
    learns(JEPA(Encoder(64, input_dim=features, pooling="last"), Predictor(64)), *states, 64)
    learns(JEPA(MLPEncoder(time_steps * features, 64), Predictor(64)), *states, 64)


@pytest.mark.rows("D4")
def test_patterns__two_scales_coarse_to_fine_and_two_kinds_of_data() -> None:
    images, other = torch.randn(4, 3, 16, 16), torch.randn(4, 3, 16, 16)
    scales = MultiScaleEncoder(CNNEncoder(3, 8), CNNEncoder(3, 16), local_dim=8, global_dim=16, hidden_dim=32)
    learns(JEPA(scales, HierarchicalPredictor(32)), images, other, 32)
    text = torch.randint(0, 30, (4, 7))
    crossed = CrossModalEncoder(CNNEncoder(3, 32), Encoder(32, vocab_size=30, pooling="none"), hidden_dim=32)
    learns(JEPA(crossed, Predictor(32)), (images, text), (other, text), 32)
    learns(
        JEPA(crossed, Predictor(32)),
        {"vision_input": images, "text_input": text},
        {"vision_input": other, "text_input": text},
        32,
    )


@pytest.mark.rows("D2")
@pytest.mark.parametrize(
    ("part", "shape"),
    [
        (Encoder(16, pooling="none"), (5, 7, 16)),
        (CNNEncoder(3, 16), (5, 3, 16, 16)),
        (MLPEncoder(12, 16), (5, 12)),
        (Predictor(16), (5, 7, 16)),
        (AttentionPredictor(16), (5, 7, 16)),
        (AttentionPredictor(16), (5, 16)),
        (RecurrentPredictor(16), (5, 7, 16)),
        (HierarchicalPredictor(16), (5, 16)),
    ],
)
def test_parts__an_example_never_depends_on_the_others_of_its_batch(part: nn.Module, shape: tuple[int, ...]) -> None:
    states = torch.randn(shape)
    with torch.no_grad():
        torch.testing.assert_close(part(states)[:2], part(states[:2]), atol=1e-5, rtol=1e-5)
