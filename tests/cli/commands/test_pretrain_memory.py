from __future__ import annotations

import json


def test_models__a_pretraining_configuration_as_a_table(hjepa) -> None:
    done = hjepa("models", "--pretrain", "digits", "--set", "train.precision=fp32", "--set", "train.device=cpu")
    assert (done.code, done.err) == (0, "")
    rows = {line[:24].strip(): line.split()[-2:] for line in done.out.splitlines()}
    assert done.out.startswith("vit_tiny_patch2_8, as digits has it\n")
    assert rows["context encoder"] == ["1.34", "1.34"]
    assert rows["target encoder"] == ["1.34", "0.00"]
    for name in ("weights", "target encoder's copy", "gradients", "the optimizer's moments", "activations"):
        assert any(line.startswith(f"{name}  ") for line in done.out.splitlines()), name
    assert "a step on 64 images, fp32 on cpu" in done.out
    assert "MB of the activations" in done.out


def test_models__a_pretraining_configuration_as_json(hjepa) -> None:
    assigned = ("--set", "model.predictor.depth=1", "--set", "train.checkpoint_activations=true")
    found = json.loads(hjepa("models", "--pretrain", "digits", *assigned, "--json").out)
    plain = json.loads(hjepa("models", "--pretrain", "digits", "--json").out)
    assert found["parameters"] == sum(part["parameters"] for part in found["parts"]) < plain["parameters"]
    kinds = ("weights", "target_weights", "gradients", "optimizer", "activations")
    assert found["bytes"]["total"] == sum(found["bytes"][kind] for kind in kinds)
    assert (found["recomputed"], plain["recomputed"]) == (True, False)
    assert "how much less is not counted" in hjepa("models", "--pretrain", "digits", *assigned).out


def test_models__pretrain_and_set_belong_together(hjepa) -> None:
    for arguments in (("--set", "train.epochs=1"), ("pixels", "--pretrain", "digits")):
        done = hjepa("models", *arguments)
        assert (done.code, done.out) == (2, "")
        assert "--pretrain takes a configuration instead of an encoder" in done.err
    assert "did you mean 'digits'" in hjepa("models", "--pretrain", "digit").err
    assert "depht" in hjepa("models", "--pretrain", "digits", "--set", "model.predictor.depht=2").err
