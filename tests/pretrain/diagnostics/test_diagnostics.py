from __future__ import annotations

import copy
import json
import math

import numpy as np
import pytest
import torch
from hjepa_pretrain.config.settings import DiagnosticsSettings, PretrainSettings
from hjepa_pretrain.diagnostics.alarms import Alarms
from hjepa_pretrain.diagnostics.levels import LevelFeatures, diagnose, nearest_neighbour_score, readouts
from hjepa_pretrain.diagnostics.spectrum import agreement, mean_energy, token_ratio, token_variance
from hjepa_pretrain.models import create_hjepa_from_config
from hjepa_pretrain.models.hjepa import HJEPA

from hjepa_eval.errors import TrainingError


def model() -> HJEPA:
    torch.manual_seed(0)
    chosen = PretrainSettings.model_validate(
        {
            "model": {"encoder_type": "vit_tiny_patch4_16", "predictor": {"embed_dim": 48, "depth": 1, "num_heads": 4}},
            "train": {"epochs": 2},
        }
    )
    return create_hjepa_from_config(chosen, total_steps=10, steps_per_epoch=5)


def images(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(256, (count, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def normalise(batch: torch.Tensor) -> torch.Tensor:
    return batch.float() / 127.5 - 1


def level(features: torch.Tensor) -> LevelFeatures:
    return LevelFeatures(features, features, torch.ones(len(features)))


def test_readouts__do_not_depend_on_the_batches_and_keep_levels_apart() -> None:
    encoder = model().target_encoder
    whole = readouts(encoder, [images(10)], normalise=normalise)
    parts = readouts(encoder, images(10).split(3), normalise=normalise)
    assert len(whole) == 3
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one.features, other.features, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(one.before_norm, other.before_norm, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(one.within, other.within, rtol=1e-4, atol=1e-5)
    assert (whole[0].features - whole[2].features).abs().max() > 1e-3


def test_readouts__are_what_evaluation_reads_and_what_the_final_norm_was_given() -> None:
    encoder = model().target_encoder
    batch = normalise(images(4))
    found = readouts(encoder, [batch])
    with torch.no_grad():
        blocks = encoder.vit.forward_intermediates(batch, intermediates_only=True, norm=False, output_fmt="NLC")
        normed = encoder(batch)
    for number, tap in enumerate(encoder.taps):
        torch.testing.assert_close(found[number].before_norm, blocks[tap - 1].mean(dim=1), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found[number].features, normed[number].mean(dim=1))
        torch.testing.assert_close(found[number].within, normed[number].var(dim=1, correction=0).mean(dim=1))


def test_readouts__see_before_the_norm_of_a_compiled_encoder_and_leave_no_hook() -> None:
    encoder = model().target_encoder
    plain = readouts(encoder, [normalise(images(4))])
    encoder.compile(backend="eager", fullgraph=True)
    with torch.no_grad():
        encoder(normalise(images(4)))
    compiled = readouts(encoder, [normalise(images(4))])
    torch.testing.assert_close(compiled[0].before_norm, plain[0].before_norm)
    assert (compiled[0].before_norm - compiled[0].features).abs().max() > 1e-3
    assert not encoder.vit.norm._forward_hooks


def test_deviation__before_the_norm_sees_features_that_shrink() -> None:
    encoder = model().target_encoder
    shrunk = copy.deepcopy(encoder)
    with torch.no_grad():
        for part in (shrunk.vit.patch_embed.proj, *(b.attn.proj for b in shrunk.vit.blocks)):
            part.weight.mul_(1e-4)
        for block in shrunk.vit.blocks:
            block.mlp.fc2.weight.mul_(1e-4)
    labels = torch.arange(32) % 4
    healthy = diagnose(readouts(encoder, [images(32)], normalise=normalise), labels)
    found = diagnose(readouts(shrunk, [images(32)], normalise=normalise), labels)
    assert all(small < 1e-2 * large for small, large in zip(found["std"], healthy["std"], strict=True))


def test_diagnosis__is_json_with_one_value_per_level() -> None:
    network = model()
    labels, held_out = torch.arange(40) % 4, torch.arange(12) % 4
    found = diagnose(
        readouts(network.target_encoder, images(40).split(16), normalise=normalise),
        labels,
        context=readouts(network.context_encoder.eval(), images(40).split(16), normalise=normalise),
        held_out=readouts(network.target_encoder, images(12, seed=1).split(16), normalise=normalise),
        held_out_labels=held_out,
    )
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found.pop("images") == 40
    assert found.pop("knn_images") == 12
    names = ("std", "smallest_std", "rankme", "effective_rank", "mean_energy", "token_ratio", "cosine", "knn")
    assert tuple(found) == names
    assert all(len(values) == 3 for values in found.values())
    assert found["cosine"] == [1.0] * 3  # At step 0 the target encoder is a copy.
    assert all(1 < rank < 39 for rank in found["rankme"])
    assert all(least <= mean for least, mean in zip(found["smallest_std"], found["std"], strict=True))


def test_diagnosis__of_a_constant_encoder_stops_the_run_and_of_an_untrained_one_does_not() -> None:
    encoder = model().target_encoder
    labels = torch.arange(32) % 4
    alarms = Alarms(DiagnosticsSettings(), [192] * 3)
    alarms.check(1, 0.1, {"loss": 1.0}, diagnose(readouts(encoder, [images(32)], normalise=normalise), labels))
    with torch.no_grad():
        encoder.vit.patch_embed.proj.weight.zero_()
    found = diagnose(readouts(encoder, [images(32)], normalise=normalise), labels)
    assert found["rankme"] == [0.0] * 3
    assert found["mean_energy"] == pytest.approx([1.0] * 3)
    with pytest.raises(
        TrainingError, match=r"step 7: level 0 has collapsed, .*smallest_std is 0\.001.*lower train\.lr"
    ):
        alarms.check(7, 0.2, {"loss": 1.0}, found)


def test_diagnosis__of_nan_features_says_nan_and_does_not_raise() -> None:
    broken = torch.randn(30, 5)
    broken[3, 2] = math.nan
    found = diagnose([level(torch.randn(30, 5)), level(broken)], torch.arange(30) % 3)
    for name in ("std", "rankme", "effective_rank", "mean_energy", "token_ratio", "knn"):
        assert math.isfinite(found[name][0])
        assert math.isnan(found[name][1])


def test_knn__is_none_for_images_of_one_class() -> None:
    assert nearest_neighbour_score(torch.randn(8, 3), torch.zeros(8, dtype=torch.int64)) is None


@pytest.mark.rows("F")
def test_knn__held_out_images_are_classified_by_the_bank_and_the_bank_leaves_one_out() -> None:
    bank = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
    labels = torch.tensor([0, 0, 1, 1])
    queries = torch.tensor([[5.0, 1.0], [1.0, 5.0], [1.0, 4.0]])
    assert nearest_neighbour_score(bank, labels, queries, torch.tensor([0, 1, 0])) == pytest.approx(2 / 3)
    assert nearest_neighbour_score(bank, labels) == 1.0
    assert nearest_neighbour_score(bank, torch.tensor([0, 1, 0, 1])) == 0.0


def test_knn__equals_votes_counted_by_hand() -> None:
    rng = np.random.default_rng(0)
    bank, queries = rng.normal(size=(200, 6)), rng.normal(size=(50, 6))
    labels, truth = rng.integers(5, size=200), rng.integers(5, size=50)
    cosines = (queries / np.linalg.norm(queries, axis=1)[:, None]) @ (bank / np.linalg.norm(bank, axis=1)[:, None]).T
    right = 0
    for row, own in zip(cosines, truth, strict=True):
        nearest = np.argsort(-row)[:20]
        votes = np.bincount(labels[nearest], weights=np.exp(row[nearest] / 0.07), minlength=5)
        right += int(votes.argmax() == own)
    found = nearest_neighbour_score(*(torch.from_numpy(part) for part in (bank, labels, queries, truth)))
    assert found == pytest.approx(right / 50)


def test_mean_energy__by_hand() -> None:
    # The mean is (3, 0), every row has length 5.
    rows = torch.tensor([[3.0, 4.0], [3.0, -4.0]])
    assert mean_energy(rows) == pytest.approx(9 / 25)
    assert mean_energy(torch.ones(5, 3)) == pytest.approx(1.0)
    assert mean_energy(torch.zeros(5, 3)) == 0.0


def test_token_ratio__by_hand_and_none_where_images_are_equal() -> None:
    # Tokens +-1 around 0 and around 4: within 1; means 0 and 4: variance 4.
    tokens = torch.tensor([[[1.0], [-1.0]], [[5.0], [3.0]]])
    within = token_variance(tokens)
    assert within.tolist() == [1.0, 1.0]
    assert token_ratio(within, tokens.mean(dim=1)) == pytest.approx(0.25)
    assert token_ratio(within, torch.ones(2, 1)) is None


def test_agreement__is_one_for_scaled_and_minus_one_for_opposite_features() -> None:
    features = torch.randn(9, 4)
    assert agreement(features, 3 * features) == pytest.approx(1.0)
    assert agreement(features, -features) == pytest.approx(-1.0)
