"""Reading a YAML file of pretraining settings needs no network, so it imports none of what builds one."""

from __future__ import annotations

import subprocess
import sys

from folders import ROOT

PRESETS = list((ROOT / "configs/pretrain").glob("*.yaml"))


def test_schemas__reading_every_preset_loads_neither_torch_nor_timm() -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from hjepa_eval.config import build, find_preset, read_yaml\n"
        "from hjepa_pretrain.config.flat_keys import from_flat\n"
        "from hjepa_pretrain.config.settings import PretrainSettings\n"
        "paths = sorted(find_preset('digits', 'pretrain').parent.glob('*.yaml'))\n"
        "for path in paths:\n"
        "    build(PretrainSettings, from_flat(read_yaml(path)), str(path))\n"
        "print(len(paths), [name for name in ('torch', 'timm', 'faiss', 'typer') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split(maxsplit=1) == [str(len(PRESETS)), "[]\n"]
