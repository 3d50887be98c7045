"""The wheel holds both packages and the presets, and works away from the checkout."""

from __future__ import annotations

import os
import site
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
import torch
from folders import ROOT


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from this checkout with the build backend that is installed here."""
    out = tmp_path_factory.mktemp("dist")
    code = f"import hatchling.build as b; print(b.build_wheel({str(out)!r}))"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, timeout=300)
    return next(out.glob("hjepa-*.whl"))


def test_wheel__holds_both_packages_presets_and_type_markers(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for expected in (
        "hjepa_eval/cli/__init__.py",
        "hjepa_eval/py.typed",
        "hjepa_eval/configs/pretrain/digits.yaml",
        "hjepa_eval/configs/pretrain/cifar10_cpu.yaml",
        "hjepa_eval/report/page/templates/report.html",
        "hjepa_eval/report/page/templates/macros.html",
        "hjepa_eval/report/page/templates/style.css",
        "hjepa_eval/report/page/templates/report.js",
        "hjepa_eval/report/page/templates/head.html",
        "hjepa_eval/report/page/templates/theme.js",
        "hjepa_pretrain/loop.py",
        "hjepa_pretrain/py.typed",
    ):
        assert expected in names
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"hjepa_eval", "hjepa_pretrain"}
    files = [name for name in names if name.endswith("METADATA")]
    metadata = zipfile.ZipFile(wheel).read(files[0]).decode()
    assert "Requires-Dist: torch>=2.6" in metadata
    assert "License-Expression: Apache-2.0" in metadata


@pytest.mark.slow
def test_wheel__demo_runs_in_an_empty_environment_beside_a_stray_pretrain_py(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "venv"
    venv.create(environment, with_pip=False)
    packages = next((environment / "lib").glob("python*/site-packages"))
    # Dependencies come from this environment; its .pth files, and so its editable hjepa, do not.
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    zipfile.ZipFile(wheel).extractall(packages)
    elsewhere = tmp_path / "project"
    elsewhere.mkdir()
    (elsewhere / "pretrain.py").write_text("raise SystemExit('the stray pretrain.py was imported')\n")
    variables = {**os.environ, "HJEPA_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    code = "from hjepa_eval.cli import main; import hjepa_eval; print(hjepa_eval.__file__); main(['demo', '--fast'])"
    done = subprocess.run(
        [environment / "bin" / "python", "-c", code],
        cwd=elsewhere,
        env=variables,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert str(packages) in done.stdout.splitlines()[0]
    for part in ("kNN k=20", "linear", "5-way 1-shot", "runs/demo", "random:runs/demo", "pixels"):
        assert part in done.stdout
    assert (elsewhere / "runs/demo/report.md").is_file()
    assert (elsewhere / "runs/demo/levels.png").is_file()
    assert len(list((elsewhere / "runs/demo/results").glob("*.json"))) == 12
