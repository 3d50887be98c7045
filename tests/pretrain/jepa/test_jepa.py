from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hjepa_pretrain.jepa import JEPA, LOSSES, AttentionPredictor, BaseModel, CNNEncoder, MLPEncoder, Predictor
from torch import Tensor, nn

from hjepa_eval.errors import CheckpointError, ConfigError, HjepaError, TrainingError, UnknownNameError


def states(batch: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, 12, generator=generator), torch.randn(batch, 12, generator=generator)


class Halved(nn.Module):
    def forward(self, vectors: Tensor) -> Tensor:
        return vectors[: len(vectors) // 2]


@pytest.mark.rows("D1")
@pytest.mark.parametrize(
    ("predictor", "said"),
    [
        (
            nn.Linear(8, 9),
            r"answers \[6, 9\] where the encoder says \[6, 8\] of the next state; give both the same wid",
        ),
        (Halved(), r"answers \[3, 8\].*keep one answer per example"),
        (nn.Unflatten(1, (2, 4)), r"answers \[6, 2, 4\].*return as many vectors as the encoder does"),
    ],
)
def test_contract__another_shape_is_a_sentence(predictor: nn.Module, said: str) -> None:
    with pytest.raises(TrainingError, match=said):
        JEPA(MLPEncoder(12, 8), predictor)(*states())


@pytest.mark.rows("D1")
def test_contract__states_of_different_length_and_what_is_no_state() -> None:
    model, (first, second) = JEPA(MLPEncoder(12, 8), Predictor(8)), states()
    with pytest.raises(TrainingError, match=r"state_t has 6 examples and state_t1 has 4"):
        model(first, second[:4])
    with pytest.raises(TrainingError, match=r"state_t\[0\] has 6, state_t\[1\] has 5"):
        model((first, first[:5]), second)
    with pytest.raises(TrainingError, match=r"found str"):
        model("text", second)
    with pytest.raises(TrainingError, match=r"state_t holds no examples"):
        model(first[:0], second[:0])


@pytest.mark.rows("D1")
def test_target__ema_begins_as_a_copy_and_follows_without_gradient() -> None:
    model = JEPA(nn.Sequential(nn.Linear(12, 8), nn.BatchNorm1d(8)), Predictor(8))
    assert model.target_encoder is not None
    for mine, other in zip(model.target_encoder.parameters(), model.encoder.parameters(), strict=True):
        assert torch.equal(mine, other)
        assert not mine.requires_grad
    before = model.target_encoder.get_parameter("0.weight").clone()
    with torch.no_grad():
        model.encoder.get_parameter("0.weight").add_(1.0)
    model(*states())
    model.update_target(0.9)
    torch.testing.assert_close(model.target_encoder.get_parameter("0.weight"), before + 0.1)
    assert torch.equal(model.target_encoder.get_buffer("1.running_mean"), model.encoder.get_buffer("1.running_mean"))
    assert not model.train().target_encoder.training


@pytest.mark.rows("D1")
def test_target__stop_gradient_and_same_differ_by_the_gradient_of_the_next_state() -> None:
    now, then = states()
    for kind, expected in (("stop_gradient", False), ("same", True), ("ema", False)):
        encoder = MLPEncoder(12, 8)
        model = JEPA(encoder, Predictor(8), target=kind)  # type: ignore[arg-type]
        asked = then.clone().requires_grad_()
        prediction, target = model(now, asked)
        torch.autograd.backward(model.loss(prediction, target))
        assert (asked.grad is not None) is expected


@pytest.mark.rows("D6")
@pytest.mark.parametrize("name", sorted(set(LOSSES) - {"reconstruction"}))
def test_losses__each_has_a_finite_gradient_and_prefers_the_right_answer(name: str) -> None:
    generator = torch.Generator().manual_seed(1)
    target = torch.randn(64, 16, generator=generator)
    wrong = torch.randn(64, 16, generator=generator)
    near = (target + 0.1 * wrong).requires_grad_()
    loss = LOSSES[name](near, target)
    assert loss < LOSSES[name](wrong, target)
    torch.autograd.backward(loss)
    assert near.grad is not None
    assert near.grad.isfinite().all()


@pytest.mark.rows("D6")
def test_reconstruction__predicts_the_state_itself_through_a_decoder() -> None:
    model = JEPA(MLPEncoder(12, 8), Predictor(8), loss="reconstruction", decoder=nn.Linear(8, 12))
    now, then = states()
    prediction, target = model(now, then)
    assert target is then
    torch.testing.assert_close(model.loss(prediction, target), (prediction - then).square().mean())
    assert model.target_encoder is None
    with pytest.raises(ConfigError, match="decoder"):
        JEPA(MLPEncoder(12, 8), Predictor(8), loss="reconstruction")


def test_choices__unknown_ones_are_told_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="smooth_l1"):
        JEPA(MLPEncoder(12, 8), Predictor(8), loss="smoth_l1")
    with pytest.raises(UnknownNameError, match="ema"):
        JEPA(MLPEncoder(12, 8), Predictor(8), target="emma")  # type: ignore[arg-type]


@pytest.mark.rows("D1")
def test_action__is_read_beside_the_state() -> None:
    model, (now, then) = JEPA(MLPEncoder(12, 8), Predictor(8, action_dim=2)), states()
    one, _ = model(now, then, torch.zeros(6, 2))
    other, _ = model(now, then, torch.ones(6, 2))
    assert not torch.equal(one, other)
    with pytest.raises(TrainingError, match="reads actions of 2 numbers; found 0"):
        model(now, then)


@pytest.mark.rows("D3")
def test_saved__comes_back_with_its_configuration_and_its_weights(tmp_path: Path) -> None:
    model = JEPA(CNNEncoder(3, 8, channels=(4, 8)), AttentionPredictor(8, depth=1), loss="cosine", momentum=0.9)
    model.save(tmp_path / "model")
    again = JEPA.from_pretrained(tmp_path / "model")
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(model.encoder(images), again.encoder(images))
    assert (again.kind, again.ema) == (model.kind, model.ema)
    assert isinstance(BaseModel.from_pretrained(tmp_path / "model"), JEPA)
    assert again.device == torch.device("cpu")
    assert 0 < again.num_parameters < sum(parameter.numel() for parameter in again.parameters())


@pytest.mark.rows("D3")
def test_saved__a_part_of_ones_own_is_passed_again(tmp_path: Path) -> None:
    JEPA(nn.Linear(12, 8), Predictor(8)).save(tmp_path)
    with pytest.raises(ConfigError, match=r"encoder is a Linear.*from_pretrained\(\.\.\., encoder=\.\.\.\)"):
        JEPA.from_pretrained(tmp_path)
    assert JEPA.from_pretrained(tmp_path, encoder=nn.Linear(12, 8)).num_parameters
    with pytest.raises(CheckpointError, match=r"encoder\.weight \[9, 12\]|\[8, 12\] instead of \[9, 12\]"):
        JEPA.from_pretrained(tmp_path, encoder=nn.Linear(12, 9))


def _cut(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-4])


def _empty(folder: Path) -> None:
    (folder / "model.json").write_text("{}")


def _gone(folder: Path) -> None:
    (folder / "model.json").unlink()


@pytest.mark.rows("D3")
@pytest.mark.parametrize("damage", [_cut, _empty, _gone])
def test_saved__damage_is_named(tmp_path: Path, damage: Any) -> None:
    MLPEncoder(12, 8).save(tmp_path)
    damage(tmp_path)
    with pytest.raises(HjepaError, match="model"):
        MLPEncoder.from_pretrained(tmp_path)


def test_saved__another_class_is_refused(tmp_path: Path) -> None:
    MLPEncoder(12, 8).save(tmp_path)
    with pytest.raises(CheckpointError, match="holds a MLPEncoder, and CNNEncoder was asked for"):
        CNNEncoder.from_pretrained(tmp_path)
