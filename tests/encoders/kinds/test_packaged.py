"""Real ImageNet weights from a pip package, in timm's network."""

from __future__ import annotations

import importlib.util
import tarfile
from pathlib import Path

import pytest
import timm
import torch
from folders import SHARED_DATA

from hjepa_eval.datasets.images import fit
from hjepa_eval.encoders import load_encoder
from hjepa_eval.encoders.kinds.packaged import PACKAGES, weights_file
from hjepa_eval.encoders.networks.naming import by_order
from hjepa_eval.encoders.weights import load_strict, read_weights
from hjepa_eval.errors import EncoderError, UnknownNameError

NAME = "efficientnet_lite0"
# ImageNet's number of each of Imagenette's classes.
IMAGENETTE = {
    "n01440764": 0,
    "n02102040": 217,
    "n02979186": 482,
    "n03000684": 491,
    "n03028079": 497,
    "n03394916": 566,
    "n03417042": 569,
    "n03425413": 571,
    "n03445777": 574,
    "n03888257": 701,
}


def network() -> torch.nn.Module:
    """timm's network with its classifier, filled by order."""
    model = timm.create_model(PACKAGES[NAME].network, pretrained=False)
    weights = by_order(read_weights(weights_file(NAME)), model.state_dict(), source="package")
    load_strict(model, weights.tensors, source="package")
    return model.eval()


def test_packaged__levels_are_the_networks_and_the_way_the_names_were_matched_is_said() -> None:
    encoder = load_encoder(f"packaged:{NAME}")
    assert [(level.dim, level.grid) for level in encoder.levels] == [
        (24, (56, 56)),
        (40, (28, 28)),
        (112, (14, 14)),
        (320, (7, 7)),
    ]
    assert (encoder.transform.size, encoder.transform.resize, encoder.transform.mean) == (224, 256, (0.5, 0.5, 0.5))
    assert "294 names matched by order and shape alone" in encoder.notes[0]
    assert "not used: _fc.weight, _fc.bias" in encoder.notes[0]
    assert "conv_head.weight, bn2.weight" in encoder.notes[1]
    weights = network().state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in encoder.model.state_dict().items())


@pytest.mark.skipif(importlib.util.find_spec("efficientnet_lite_pytorch") is None, reason="its own network is absent")
def test_packaged__timms_network_gives_the_logits_of_the_packages_own() -> None:
    from efficientnet_lite_pytorch import EfficientNet

    own = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(weights_file(NAME))).eval()
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(network()(images), own(images), rtol=1e-3, atol=1e-3)


def test_packaged__knows_photographs_of_imagenette() -> None:
    from torchvision.io import ImageReadMode, decode_image

    archives = sorted(SHARED_DATA.glob("imagenette*.tar*"))
    if not archives:
        pytest.skip(f"no Imagenette in {SHARED_DATA}; name its folder with HJEPA_SHARED_DATA")
    transform, images, labels = load_encoder(f"packaged:{NAME}").transform, [], []
    taken = dict.fromkeys(IMAGENETTE, 0)
    with tarfile.open(archives[0]) as tar:
        for member in tar:
            parts = Path(member.name).parts
            if member.isfile() and "val" in parts and taken.get(parts[-2], 9) < 4:
                taken[parts[-2]] += 1
                data = torch.frombuffer(bytearray(tar.extractfile(member).read()), dtype=torch.uint8)
                images.append(fit(decode_image(data, ImageReadMode.RGB), transform))
                labels.append(IMAGENETTE[parts[-2]])
    with torch.no_grad():
        logits, known = network()(transform.normalise(torch.stack(images))), torch.tensor(labels)
    assert len(labels) == 40
    # Photographs of 160 pixels: 27 of 40 are right among 1,000 classes, where chance is 0.04.
    assert (logits.argmax(1) == known).float().mean() > 0.6
    ten = torch.tensor(list(IMAGENETTE.values()))
    assert (ten[logits[:, ten].argmax(1)] == known).float().mean() > 0.9


def test_packaged__unknown_names_and_absent_packages_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'efficientnet_lite1'"):
        load_encoder("packaged:efficientnet_lit1")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EncoderError, match=r"pip install 'hjepa\[pretrained\]'"):
        load_encoder(f"packaged:{NAME}")


@pytest.mark.slow
def test_packaged__the_readmes_command_runs_on_photographs(tmp_path: Path) -> None:
    import shlex

    from folders import ROOT

    from hjepa_eval.cli import main

    archives = sorted(SHARED_DATA.glob("imagenette*.tar*"))
    if not archives:
        pytest.skip(f"no Imagenette in {SHARED_DATA}; name its folder with HJEPA_SHARED_DATA")
    taken: dict[tuple[str, ...], int] = {}
    with tarfile.open(archives[0]) as tar:
        for member in tar:
            kind = Path(member.name).parts[-3:-1]
            if member.isfile() and taken.get(kind, 0) < 2:
                taken[kind] = taken.get(kind, 0) + 1
                target = tmp_path / "data" / "imagenette" / Path(*kind, Path(member.name).name)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(tar.extractfile(member).read())
    (line,) = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("$ hjepa eval")]
    # Two images a class are too few for episodes, and enough for the road; baselines have tests of their own.
    for word, less in (("path/to/data", str(tmp_path / "data")), ("random,pixels:8,kmeans", "none")):
        assert word in line
        line = line.replace(word, less)
    with pytest.raises(SystemExit) as stop:
        main([*shlex.split(line)[2:], "--probes", "knn", "--k", "1"])
    assert stop.value.code == 0
