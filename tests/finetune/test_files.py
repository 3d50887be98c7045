"""What fine-tuning reads and leaves behind: images that cannot be read, weights that load again."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from hjepa_eval.datasets.protocol import ImageDataset
from hjepa_eval.datasets.transform import Transform
from hjepa_eval.encoders import load_encoder
from hjepa_eval.encoders.vit import create_vit
from hjepa_eval.errors import CheckpointError, DataError
from hjepa_eval.finetune import images as images_module
from hjepa_eval.finetune.classifier import write_encoder
from hjepa_eval.finetune.images import TrainingImages


class Torn(ImageDataset):
    """Images filled with their own index; number 3 cannot be read."""

    labels = np.zeros(8, dtype=np.int64)

    def image(self, index: int) -> Tensor:
        if index == 3:
            raise DataError("3.png cannot be read")
        return torch.full((3, 8, 8), index, dtype=torch.uint8)


@pytest.mark.parametrize("share", [0.5, 0.0])
def test_images__come_in_the_order_asked_for_without_the_unreadable(
    monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    monkeypatch.setattr(images_module, "MEMORY_SHARE", share)
    images = TrainingImages(Torn(), Transform(8, 8), count=8, workers=1, skip_bad=True)
    batches = list(images.batches(torch.tensor([6, 3, 1, 3, 3, 0]), 2))
    assert [index.tolist() for _, index in batches] == [[6], [1], [0]]
    assert [pixels[0, 0, 0, 0].item() for pixels, _ in batches] == [6, 1, 0]
    assert list(images.skipped) == ["3.png cannot be read"]
    with pytest.raises(DataError, match=r"3\.png"):
        list(TrainingImages(Torn(), Transform(8, 8), count=8, workers=1, skip_bad=False).batches(torch.tensor([3]), 2))


def make_run(folder: Path) -> None:
    arguments = {"depth": 2, "embed_dim": 24, "num_heads": 3}
    config = {
        "format_version": 1,
        "encoder": {"vit": "vit_tiny_patch4_8", "arguments": arguments, "taps": [1, 2]},
        "transform": asdict(Transform(8, 8)),
        "dataset": {},
    }
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    weights = create_vit("vit_tiny_patch4_8", **arguments).state_dict()
    save_file({f"target.{name}": tensor for name, tensor in weights.items()}, folder / "encoder.safetensors")


@pytest.mark.parametrize("spec", ["run", "random:run", "random:vit_tiny_patch4_8?taps=1,2", "random:resnet10t"])
def test_weights__load_again_under_the_name_that_is_returned(tmp_path: Path, spec: str) -> None:
    make_run(Path("run"))
    encoder = load_encoder(spec)
    with torch.no_grad():
        next(encoder.parameters()).add_(1)
    again = write_encoder(tmp_path / "tuned", encoder)
    assert again is not None
    assert load_encoder(again).weights_hash() == encoder.weights_hash()
    assert load_encoder(again).levels == encoder.levels
    second = load_encoder(str(write_encoder(tmp_path / "twice", load_encoder(again))))
    assert second.weights_hash() == encoder.weights_hash(), "a fine-tuned encoder can be fine-tuned again"


def test_weights__of_a_run_beside_settings_that_were_changed_are_refused(tmp_path: Path) -> None:
    make_run(Path("run"))
    again = Path(str(write_encoder(tmp_path / "tuned", load_encoder("run"))))
    config = json.loads((again / "config.json").read_text())
    (again / "config.json").write_text(json.dumps({**config, "transform": {**config["transform"], "mean": [0, 0, 0]}}))
    with pytest.raises(CheckpointError, match=r"config\.json is not what was written"):
        load_encoder(str(again))


def test_weights__of_an_unknown_encoder_keep_their_own_names(tmp_path: Path) -> None:
    encoder = load_encoder("random:vit_tiny_patch4_8?taps=1,2")
    encoder.name = "mine.py:build"
    assert write_encoder(tmp_path, encoder) is None
    assert load_file(tmp_path / "encoder.safetensors").keys() == encoder.state_dict().keys()
