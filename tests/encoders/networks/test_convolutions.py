from __future__ import annotations

import pytest
import torch

from hjepa_eval.encoders import load_encoder
from hjepa_eval.encoders.networks.convolutions import Convolutions, Stem
from hjepa_eval.encoders.stages import create_stages, stage_maps
from hjepa_eval.errors import EncoderError


def test_convolutions__groups_halve_what_the_stem_leaves_of_any_size() -> None:
    network = create_stages("conv_4_6_8")
    for side, grids in ((32, (15, 7, 3)), (16, (7, 3, 1))):
        maps = stage_maps(network.eval(), torch.rand(2, 3, side, side), range(3))
        assert [tuple(level.shape) for level in maps] == [
            (2, *pair) for pair in zip((4, 6, 8), grids, grids, strict=True)
        ]


def test_convolutions__same_seed_same_weights_and_the_global_generator_stays() -> None:
    state = torch.get_rng_state()
    first, again, other = (create_stages("conv_4_6", seed=seed).groups[0].first.weight for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("name", ["conv_", "conv_8", "conv_8_0", "conv_1_2_3_4_5", "conv_8_x"])
def test_convolutions__other_names_are_refused_with_an_example(name: str) -> None:
    with pytest.raises(EncoderError, match="such as conv_64_256_256"):
        create_stages(name)


def test_stem__basis_is_orthonormal_and_evens_variances() -> None:
    stem = Stem()
    basis = stem.basis.flatten(1)
    torch.testing.assert_close(basis @ basis.T, torch.eye(12), atol=1e-6, rtol=0)
    smooth = torch.nn.functional.avg_pool2d(torch.rand(8, 3, 40, 40, generator=torch.Generator().manual_seed(0)), 3, 1)
    white = stem.train().norm(torch.nn.functional.conv2d(smooth, stem.basis))
    torch.testing.assert_close(white.var(dim=(0, 2, 3), correction=0), torch.ones(12), atol=0.1, rtol=0)
    assert not list(stem.parameters())


def test_random_conv__is_an_encoder_with_a_level_per_group() -> None:
    encoder = load_encoder("random:conv_4_6_8")
    assert [level.dim for level in encoder.levels] == [4, 6, 8]
    assert isinstance(getattr(encoder, "model", None), Convolutions)
