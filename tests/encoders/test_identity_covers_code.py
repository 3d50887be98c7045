"""An identity is remembered only while all code that builds and runs an encoder stays as it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from folders import ROOT

from hjepa_eval.encoders import ENCODERS
from hjepa_eval.encoders.handle import code_files

BUILD_AND_RUN = """
import json, sys
from pathlib import Path
import torch
from hjepa_eval.encoders import load_encoder
from hjepa_eval.datasets import load_dataset

loaded = {}
for kind, spec in json.loads(sys.argv[1]).items():
    encoder = load_encoder(spec, train_images=lambda: load_dataset("digits", "train"))
    size = encoder.transform.size
    encoder(encoder.transform.normalise(torch.zeros(2, 3, size, size, dtype=torch.uint8)))
    modules = [module for name, module in sys.modules.items() if name.split(".")[0] in ("hjepa_eval", "hjepa_pretrain")]
    loaded[kind] = sorted(module.__file__ for module in modules if module.__file__)
print(json.dumps(loaded))
"""
OWN_FILE = "from hjepa_eval.encoders.kinds.pixels import Pixels\n\n\ndef build():\n    return Pixels(8)\n"


@pytest.fixture
def specs(tmp_path: Path, digits_run: Path) -> dict[str, str]:
    """An encoder of each kind that needs no download."""
    import torch
    import transformers
    from safetensors.torch import save_file

    from hjepa_eval.encoders import load_encoder

    small = load_encoder("random:vit_tiny_patch8_32").model.state_dict()
    save_file(small, tmp_path / "timm.safetensors")
    config = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
    huggingface = transformers.ViTConfig(**config, image_size=32, patch_size=8)
    transformers.ViTModel(huggingface, add_pooling_layer=False).save_pretrained(tmp_path / "vit")
    ijepa = {name: tensor for name, tensor in small.items() if name != "cls_token"}
    ijepa["pos_embed"] = ijepa["pos_embed"][:, 1:]
    torch.save({"target_encoder": ijepa, "encoder": ijepa}, tmp_path / "ijepa.pth.tar")
    (tmp_path / "own.py").write_text(OWN_FILE)
    return {
        "run": str(digits_run),
        "timm": f"timm:vit_tiny_patch8_32?checkpoint={tmp_path / 'timm.safetensors'}",
        "hf": f"hf:{tmp_path / 'vit'}",
        "ijepa": f"ijepa:{tmp_path / 'ijepa.pth.tar'}",
        "random": "random:resnet10t",
        "pixels": "pixels:8",
        "kmeans": "kmeans:4?patch=4?size=8",
        "packaged": "packaged:efficientnet_lite0",
        "facts": "facts",
        "file": f"{tmp_path / 'own.py'}:build",
    }


def test_code_files__hold_every_module_that_building_and_running_any_kind_loads(specs: dict[str, str]) -> None:
    assert specs.keys() == ENCODERS.keys() - {"features"}, "imported features have no network to build"
    hashed = {os.path.realpath(file) for file in code_files()}
    path = os.pathsep.join([str(ROOT), str(ROOT / "pretrain")])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BUILD_AND_RUN, json.dumps(specs)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    for kind, files in json.loads(done.stdout).items():
        loaded = {os.path.realpath(file) for file in files}
        assert any("encoders/kinds" in file for file in loaded), kind
        assert loaded <= hashed, (kind, sorted(loaded - hashed))
