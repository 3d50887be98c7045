"""`--encoder` is `?encoder=` in plain words."""

from __future__ import annotations

from pathlib import Path

import pytest

from hjepa_eval.encoders.kinds.run import with_branch
from hjepa_eval.errors import ConfigError, UnknownNameError


@pytest.fixture
def run(tmp_path: Path) -> str:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    return str(tmp_path / "run")


def test_with_branch__one_encoder_has_one_name(run: str) -> None:
    assert with_branch(run, None) == run
    assert with_branch(run, "target") == run
    assert with_branch(run, "context") == f"{run}?encoder=context"
    assert with_branch(f"{run}?encoder=context", "context") == f"{run}?encoder=context"
    assert with_branch("ijepa:FILE.pth.tar?levels=2", "context") == "ijepa:FILE.pth.tar?levels=2?encoder=context"


def test_with_branch__two_answers_or_none_are_errors(run: str) -> None:
    for spec, branch in ((f"{run}?encoder=context", "target"), (f"{run}?encoder=target", "context")):
        with pytest.raises(ConfigError, match=f"--encoder {branch} contradicts --model"):
            with_branch(spec, branch)
    for spec in ("pixels:8", f"random:{run}", "timm:vit_tiny_patch16_224"):
        with pytest.raises(ConfigError, match=r"two encoders of a pretraining run, and .* is none"):
            with_branch(spec, "context")
    with pytest.raises(UnknownNameError, match="unknown encoder branch 'ema'"):
        with_branch(run, "ema")
