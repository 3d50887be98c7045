"""Profiles of encoders, as the tables of docs/profile.md show them: `python benchmarks/profiles.py NAME --root DATA`.

NAME is one of `ENTRIES`, or `model=RUN` for an encoder of your own, such as `model=runs/cifar10_cpu --dataset cifar10`.
What was told stands in `benchmarks/results/profiles.json`; a name that is measured again replaces its rows there.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import hjepa_eval as hjepa
from hjepa_eval.results.profiles import LevelProfile, Profile

RESULTS = Path(__file__).parent / "results" / "profiles.json"
UNTRAINED = "random:vit_tiny_patch4_32?depth=6"
# name -> what `hjepa.profile` is asked
ENTRIES: dict[str, dict[str, Any]] = {
    "pretrained-imagenette": {
        "models": "packaged:efficientnet_lite0",
        "dataset": "imagenette",
        "baselines": ["pixels:8", "kmeans"],
        "max_samples": 1000,
    },
    "pretrained-scenes": {
        "models": "packaged:efficientnet_lite0",
        "dataset": "scenes?n=1000",
        "baselines": ["pixels:8", "kmeans"],
    },
    "untrained-cifar10": {
        "models": UNTRAINED,
        "dataset": "cifar10",
        "baselines": ["pixels:8", "kmeans"],
        "max_samples": 3000,
    },
    "untrained-scenes": {
        "models": UNTRAINED,
        "dataset": "scenes?size=32?n=3000",
        "baselines": ["pixels:8", "kmeans"],
    },
}


def in_short(profile: Profile) -> dict[str, Any]:
    """Return what tables need of a profile: no paths, no hashes, no settings."""
    return {
        "model": profile.model.name,
        "baseline": profile.baseline,
        "dataset": profile.dataset.name,
        "images": [profile.dataset.train_images, profile.dataset.test_images],
        "seed": profile.provenance.seed,
        "seconds": {name: round(seconds, 1) for name, seconds in profile.provenance.seconds.items()},
        "versions": profile.provenance.versions,
        "levels": [_level(level) for level in profile.levels],
        "map": [
            {
                "levels": [pair.first, pair.second],
                "other": pair.other_model,
                "shared": pair.mutual_knn.calibrated,
                "within": pair.within_classes.calibrated,
                "cka": pair.cka,
            }
            for pair in profile.level_map
        ],
        "told_apart": sum(test.p_holm < 0.05 for test in profile.factor_tests),
        "tests": len(profile.factor_tests),
        "verdict": None if profile.verdict is None else profile.verdict.sentence,
        "left_out": [f"{entry.name}: {entry.reason}" for entry in profile.left_out],
    }


def _level(level: LevelProfile) -> dict[str, Any]:
    return {
        "level": level.level,
        "name": level.name,
        "width": level.width,
        "fused": bool(level.fused),
        "factors": {
            score.factor: [round(number, 4) for number in (score.value, score.low, score.high, score.chance)]
            for score in level.factors
        },
        "measures": {
            measure.name: round(measure.value, 4)
            for measure in (*level.geometry, *level.neighbours)
            if measure.value is not None
        },
    }


def main() -> None:
    """Measure what is asked for and put it in the file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("names", nargs="+", metavar="NAME")
    parser.add_argument("--dataset", help="for model=...")
    parser.add_argument("--root", type=Path, help="folder of the data sets")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--changes", action="store_true")
    chosen = parser.parse_args()
    for name in chosen.names:
        own = {"models": name.removeprefix("model="), "dataset": chosen.dataset}
        asked = dict(ENTRIES.get(name) or own)
        title = name if chosen.seed == 0 else f"{name} seed {chosen.seed}"
        with tempfile.TemporaryDirectory() as folder:
            profiles = hjepa.profile(
                asked.pop("models"),
                asked.pop("dataset"),
                root=chosen.root,
                seed=chosen.seed,
                changes=chosen.changes,
                out=folder,
                **asked,
            )
        known = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
        RESULTS.write_text(json.dumps({**known, title: [in_short(made) for made in profiles]}, indent=1) + "\n")
        print(f"{title}: {len(profiles)} profiles in {RESULTS.name}")


if __name__ == "__main__":
    main()
