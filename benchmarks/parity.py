"""hjepa's numbers against its peers' own code on the same arrays: `python benchmarks/parity.py`.

Features are the pixels of scikit-learn's digits, so nothing is downloaded. Peers: the extra `bench`. Each row counts
what differs and of how many; `because` says why, where something does. The result is `benchmarks/results/parity.json`,
shown as a table in `benchmarks/README.md`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from hjepa_eval.metrics.intervals import wilson
from hjepa_eval.metrics.paired import compare_values, holm, mcnemar
from hjepa_eval.probes.few_labels.episodes import draw_episodes
from hjepa_eval.probes.few_labels.few_shot import classify_episodes
from hjepa_eval.probes.knn import knn
from hjepa_eval.probes.linear.linear import logistic_regression
from hjepa_eval.probes.linear.ridge import DEFAULT_PENALTIES, ridge_regression
from hjepa_eval.probes.samples import Samples

RESULTS = Path(__file__).parent / "results" / "parity.json"
PEERS = ("lightly", "easyfsl", "scikit-learn", "statsmodels", "timm", "scipy")


@dataclass(frozen=True)
class Row:
    """One comparison: `differ` of `total` things named `unit`, and why."""

    what: str
    peer: str
    differ: int
    total: int
    unit: str
    because: str = ""


def digits() -> tuple[Samples, Samples]:
    rows, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    noise = np.random.default_rng(1).normal(0, 1e-2, rows.shape)  # equal distances have no one answer
    samples = Samples((rows + noise).astype(np.float32), labels.astype(np.int64))
    return samples.take(order[500:]), samples.take(order[:500])


def unlike(ours: NDArray, theirs: NDArray) -> int:
    return int((np.asarray(ours) != np.asarray(theirs)).sum())


def neighbours(train: Samples, test: Samples) -> Iterator[Row]:
    from lightly.utils.benchmarking import knn_predict
    from sklearn.neighbors import KNeighborsClassifier

    ks = (1, 10, 20, 200)
    ours = knn(train, test, num_classes=10, ks=ks, temperature=0.1)
    bank, queries = (torch.nn.functional.normalize(torch.from_numpy(s.features), dim=1) for s in (train, test))
    for k in ks:
        theirs = knn_predict(queries, bank.T.contiguous(), torch.from_numpy(train.labels), 10, k, 0.1)[:, 0].numpy()
        yield Row(
            f"kNN, T = 0.1, k = {k}", "lightly knn_predict", unlike(ours.predictions[k], theirs), 500, "predictions"
        )
    voted = knn(train, test, num_classes=10, ks=(1, 5), weighting="majority")
    for k in (1, 5):
        model = KNeighborsClassifier(k, algorithm="brute", metric="cosine").fit(train.features, train.labels)
        differ = unlike(voted.predictions[k], model.predict(test.features))
        why = "classes with equal votes: ours by the nearest neighbour, theirs the lowest" if differ else ""
        yield Row(f"kNN, majority, k = {k}", "scikit-learn KNeighborsClassifier", differ, 500, "predictions", why)
    flat = knn(train, test, num_classes=10, ks=(10,), metric="euclidean", weighting="inverse")
    model = KNeighborsClassifier(10, algorithm="brute", weights=lambda d: 1 / (d + 1e-5)).fit(
        train.features, train.labels
    )
    differ = unlike(flat.predictions[10], model.predict(test.features))
    yield Row("kNN, Euclidean, 1 / distance, k = 10", "scikit-learn KNeighborsClassifier", differ, 500, "predictions")


def few_shot(test: Samples) -> Iterator[Row]:
    from easyfsl.methods import PrototypicalNetworks
    from sklearn.linear_model import LogisticRegression, Ridge

    unit = test.features / np.linalg.norm(test.features, axis=1, keepdims=True)
    method = PrototypicalNetworks(torch.nn.Identity())
    for ways, shots in ((5, 1), (5, 5), (2, 5)):
        drawn = draw_episodes(test.labels, num_classes=10, ways=ways, shots=shots, episodes=100)
        classes, truth = np.repeat(np.arange(ways), shots), np.repeat(np.arange(ways), 15)

        def easyfsl(shown: NDArray, asked: NDArray, classes: NDArray = classes) -> NDArray:
            method.process_support_set(torch.from_numpy(shown), torch.from_numpy(classes))
            return method(torch.from_numpy(asked)).argmax(1).numpy()

        def logistic(shown: NDArray, asked: NDArray, classes: NDArray = classes) -> NDArray:
            model = LogisticRegression(C=1.0, solver="newton-cholesky", tol=1e-10)
            return model.fit(shown.astype(float), classes).predict(asked.astype(float))

        def ridge(shown: NDArray, asked: NDArray, classes: NDArray = classes, ways: int = ways) -> NDArray:
            return Ridge(1.0).fit(shown.astype(float), np.eye(ways)[classes]).predict(asked.astype(float)).argmax(1)

        peers: dict[str, tuple[str, Callable[[NDArray, NDArray], NDArray]]] = {
            "prototype": ("easyfsl PrototypicalNetworks", easyfsl),
            "logreg": ("scikit-learn LogisticRegression(C=1)", logistic),
            "ridge": ("scikit-learn Ridge(1)", ridge),
        }
        for name, (peer, classify) in peers.items():
            ours = classify_episodes(test.features, drawn, classifier=name).episode_accuracies
            theirs = [
                float((classify(unit[support.ravel()], unit[queries.ravel()]) == truth).mean())
                for support, queries in zip(drawn.support, drawn.queries, strict=True)
            ]
            differ = int((np.abs(ours - theirs) > 1e-6).sum())
            why = "a query on the border of two classes" if differ else ""
            yield Row(f"few-shot {name}, {ways} ways, {shots} shots", peer, differ, 100, "episodes", why)


def linear(train: Samples, test: Samples) -> Iterator[Row]:
    from sklearn.linear_model import LogisticRegression, Ridge, RidgeCV

    pair = tuple(s.take(np.flatnonzero((s.labels == 3) | (s.labels == 8))) for s in (train, test))
    for (fitted, asked), named in (((train, test), "10 classes"), (pair, "2 classes")):
        for c in (1e-3, 0.1, 10.0):
            ours = logistic_regression(fitted, asked, num_classes=10, cs=[c])
            model = LogisticRegression(C=c, solver="newton-cholesky", tol=1e-10, max_iter=1000)
            theirs = model.fit(fitted.features.astype(float), fitted.labels).predict(asked.features.astype(float))
            differ = unlike(ours.predictions, theirs)
            peer = "scikit-learn LogisticRegression"
            yield Row(f"logistic regression, C = {c:g}, {named}", peer, differ, len(asked), "predictions")
    targets = 2.0 * np.eye(10)[train.labels] - 1
    for penalty in (0.1, 10.0, 1000.0):
        ours = ridge_regression(train, test, num_classes=10, penalties=[penalty])
        theirs = (
            Ridge(penalty).fit(train.features.astype(float), targets).predict(test.features.astype(float)).argmax(1)
        )
        named = f"ridge, penalty {penalty:g}"
        yield Row(named, "scikit-learn Ridge", unlike(ours.predictions, theirs), 500, "predictions")
    found = ridge_regression(train, test, num_classes=10)
    theirs = RidgeCV(DEFAULT_PENALTIES, store_cv_results=True).fit(train.features.astype(float), targets)
    errors = theirs.cv_results_.mean(axis=(0, 1))
    off = int((np.abs(np.array(list(found.val_errors.values())) / errors - 1) > 1e-9).sum())
    yield Row("ridge, leave-one-out errors", "scikit-learn RidgeCV", off, len(errors), "penalties")


def statistics() -> Iterator[Row]:
    from scipy.stats import ttest_rel
    from statsmodels.stats.contingency_tables import mcnemar as peer_mcnemar
    from statsmodels.stats.multitest import multipletests
    from statsmodels.stats.proportion import proportion_confint

    generator = np.random.default_rng(0)
    counts = [(int(generator.integers(0, n + 1)), n) for n in generator.integers(1, 5000, 200).tolist()]
    off = 0
    for right, total in counts:
        ours, theirs = wilson(right, total), proportion_confint(right, total, method="wilson")
        off += not np.allclose((ours.low, ours.high), np.clip(theirs, 0, 1), atol=1e-12)
    yield Row("Wilson's interval", "statsmodels proportion_confint", off, 200, "intervals")
    off = 0
    for first, second in generator.integers(0, 60, (200, 2)).tolist():
        theirs = peer_mcnemar([[9, first], [second, 9]], exact=True).pvalue
        off += not np.isclose(mcnemar(first, second), min(1.0, theirs), atol=1e-12)
    yield Row("McNemar's exact test", "statsmodels mcnemar", off, 200, "p-values")
    p = generator.random(200) ** 4
    off = int((~np.isclose(holm(p.tolist()), multipletests(p, method="holm")[1])).sum())
    yield Row("Holm's method", "statsmodels multipletests", off, 200, "p-values")
    off = 0
    for _ in range(50):
        one, other = generator.normal(size=(2, 40)) + 0.2
        test = ttest_rel(one, other)
        ours, ends = compare_values(one, other), test.confidence_interval()
        same = np.allclose(
            (ours.p_value, ours.difference.low, ours.difference.high), (test.pvalue, ends.low, ends.high)
        )
        off += not same
    yield Row("paired t-test and interval", "scipy ttest_rel", off, 50, "tests")


def encoders() -> Iterator[Row]:
    import timm

    from hjepa_eval.encoders import load_encoder

    encoder = load_encoder("random:vit_tiny_patch16_224?taps=final")
    images = torch.randn(4, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0).eval()
    model.load_state_dict(encoder.model.state_dict())
    with torch.inference_mode():
        ours, theirs = encoder(images)[0].float(), model.forward_features(images)
    off = int((~torch.isclose(ours, theirs, atol=1e-4).flatten(1).all(dim=1)).sum())
    yield Row("tokens of the last block, ViT-Ti/16", "timm forward_features", off, 4, "images")


def main() -> None:
    started = time.perf_counter()
    torch.manual_seed(0)
    train, test = digits()
    rows: list[Row] = []
    for rows_of in (
        neighbours(train, test),
        few_shot(test),
        linear(train, test),
        statistics(),
        encoders(),
    ):
        for row in rows_of:
            print(f"{row.differ} of {row.total} {row.unit} differ: {row.what}, {row.peer} {row.because}")
            rows.append(row)
    result = {
        "rows": [asdict(row) for row in rows],
        "features": {"train": list(train.features.shape), "test": list(test.features.shape)},
        "versions": {name: version(name) for name in (*PEERS, "torch", "numpy")},
        "seconds": round(time.perf_counter() - started, 1),
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written: {RESULTS}, {result['seconds']} s")


if __name__ == "__main__":
    main()
