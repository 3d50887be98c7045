"""What tokens know, level by level, as records: `python benchmarks/token_records.py --root DATA [--only scenes ...]`.

Every section evaluates models on one data set with the attentive and the dense probes, writes the records to `--out`,
and replaces its own part of `results/token_records.json`, which docs/tokens.md shows. A model more is one option more:
`--only scenes --model runs/mine`; what the cache has is not computed again.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import hjepa_eval
from hjepa_eval.errors import HjepaError
from hjepa_eval.results.provenance import package_versions
from hjepa_eval.results.records import Record

RESULTS = Path(__file__).parent / "results" / "token_records.json"
PRETRAINED = "packaged:efficientnet_lite0"
UNTRAINED = "random:tf_efficientnet_lite0"
HEADS: dict[str, Any] = {"queries": 8, "lr": [1e-3, 3e-3, 1e-2], "weight_decay": [0.1], "head_batch": 128}
DENSE = {
    "knn-segmentation": {"bank": 1 << 14},
    "linear-segmentation": {"fit_tokens": 1 << 14},
    "depth": {},
    "correspondence": {"pairs": 100},
    "discovery": {},
}
SECTIONS: dict[str, dict[str, Any]] = {
    "scenes": {
        "dataset": "scenes?n=400",
        "models": [PRETRAINED, UNTRAINED, "kmeans?size=64?cells=16", "pixels:64?cells=16"],
        "dense": list(DENSE),
        "attentive": {},
    },
    "cifar10": {
        "dataset": "cifar10",
        "models": ["random:vit_tiny_patch4_32", "kmeans?cells=8", "pixels:32?cells=8"],
        "dense": ["correspondence"],
        "attentive": {},
        "options": {"max_samples": 1500},
    },
    "imagenette": {
        "dataset": "imagenette",
        "models": [PRETRAINED],
        "dense": ["correspondence"],
        "attentive": {},
        "options": {"max_samples": 300},
    },
}


def summary(record: Record) -> dict[str, Any]:
    """Return what the page shows of a record."""
    levels = [
        {
            "level": "joined" if level.fused else level.level,
            "name": level.name,
            "tokens": level.tokens,
            "scores": {s.key: [s.value, s.low, s.high] for s in level.scores if s.metric != "iou"},
        }
        for level in record.levels
    ]
    return {
        "model": record.model.name,
        "probe": record.probe,
        "protocol": record.protocol,
        "parameters": record.parameters,
        "images": [record.dataset.train_images, record.dataset.test_images],
        "levels": levels,
        "comparisons": [test.model_dump(mode="json") for test in record.comparisons if " level=" not in test.score],
        "contrasts": [test.model_dump(mode="json") for test in record.contrasts],
    }


def run(name: str, models: list[str], common: dict[str, Any]) -> None:
    """Evaluate models in one section, and write each record's summary as soon as it is there."""
    section = SECTIONS[name]
    jobs = [("dense", {"dense_protocol": protocol, **DENSE[protocol]}) for protocol in section["dense"]]
    jobs.append(("attentive", {**HEADS, **section["attentive"]}))
    for model in models:
        for probe, options in jobs:
            started = time.perf_counter()
            try:
                result = hjepa_eval.evaluate(
                    model,
                    section["dataset"],
                    probes=[probe],
                    baselines=["none"],
                    gallery=False,
                    **{**section.get("options", {}), **options, **common},
                )
            except HjepaError as error:
                print(f"{name}, {model}, {probe} {options.get('dense_protocol', '')}: left out: {error}")
                continue
            for record in result.records:
                keep(name, summary(record))
            print(
                f"{name}, {model}, {probe} {options.get('dense_protocol', '')}: {time.perf_counter() - started:.0f} s"
            )


def keep(section: str, entry: dict[str, Any]) -> None:
    """Put a summary into the file, in the place of an earlier one of the same model and protocol."""
    known = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {"sections": {}}
    same = (entry["model"], entry["protocol"])
    others = [each for each in known["sections"].get(section, []) if (each["model"], each["protocol"]) != same]
    known["sections"][section] = [*others, entry]
    known["versions"] = package_versions()
    RESULTS.write_text(json.dumps(known, indent=1) + "\n")


def main() -> None:
    """Run the sections asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=Path("results/tokens"))
    parser.add_argument("--only", nargs="*", default=list(SECTIONS), choices=list(SECTIONS))
    parser.add_argument("--model", nargs="*", default=None, help="instead of the section's own")
    parser.add_argument("--cache-dir", type=Path, default=None)
    asked = parser.parse_args()
    cache = {} if asked.cache_dir is None else {"cache_dir": asked.cache_dir}
    for name in asked.only:
        root = {} if asked.root is None or name == "scenes" else {"root": asked.root / name}
        run(name, asked.model or SECTIONS[name]["models"], {"out": asked.out, **root, **cache})


if __name__ == "__main__":
    main()
