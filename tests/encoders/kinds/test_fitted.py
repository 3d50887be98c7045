from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hjepa_eval.encoders.kinds.fitted import fitted_tensors


class Fit:
    """Counts how often it is called."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> dict[str, torch.Tensor]:
        self.calls += 1
        return {"weight": torch.arange(6.0).reshape(2, 3).T}


def kept_file(cache_dir: Path) -> Path:
    (file,) = (cache_dir / "encoders").iterdir()
    return file


def test_fitted_tensors__the_second_call_does_not_fit(tmp_path: Path) -> None:
    fit = Fit()
    for _ in range(2):
        tensors = fitted_tensors({"seed": 0}, fit, cache_dir=tmp_path)
        assert tensors["weight"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert fit.calls == 1
    fitted_tensors({"seed": 1}, fit, cache_dir=tmp_path)
    assert fit.calls == 2
    fitted_tensors({"seed": 1}, fit, cache_dir=None)
    assert fit.calls == 3


def damage_end(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-3])


def damage_value(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def foreign(file: Path) -> None:
    save_file({"weight": torch.zeros(3, 2)}, file)


def empty(file: Path) -> None:
    file.write_bytes(b"")


@pytest.mark.parametrize("harm", [damage_end, damage_value, foreign, empty])
def test_fitted_tensors__a_damaged_file_is_replaced(tmp_path: Path, harm) -> None:
    fit = Fit()
    fitted_tensors({"seed": 0}, fit, cache_dir=tmp_path)
    file = kept_file(tmp_path)
    good = file.read_bytes()
    harm(file)
    tensors = fitted_tensors({"seed": 0}, fit, cache_dir=tmp_path)
    assert fit.calls == 2
    assert tensors["weight"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert file.read_bytes() == good
    assert load_file(file).keys() == {"weight"}


def test_fitted_tensors__a_file_of_another_recipe_is_not_taken(tmp_path: Path) -> None:
    fit = Fit()
    fitted_tensors({"seed": 0}, fit, cache_dir=tmp_path)
    first = kept_file(tmp_path)
    content = first.read_bytes()
    first.unlink()
    fitted_tensors({"seed": 1}, fit, cache_dir=tmp_path)
    kept_file(tmp_path).write_bytes(content)
    fitted_tensors({"seed": 1}, fit, cache_dir=tmp_path)
    assert fit.calls == 3


def test_fitted_tensors__a_folder_that_cannot_be_written_costs_a_fit_only(tmp_path: Path) -> None:
    (tmp_path / "encoders").write_text("a file where the folder should be")
    fit = Fit()
    for _ in range(2):
        fitted_tensors({"seed": 0}, fit, cache_dir=tmp_path)
    assert fit.calls == 2
