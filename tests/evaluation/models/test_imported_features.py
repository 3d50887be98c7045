"""Features of another program: the same numbers as from the encoder, comparisons, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hjepa_eval.cli import main
from hjepa_eval.errors import DataError, StoreError
from hjepa_eval.evaluation.models.imported import import_features
from hjepa_eval.features import read_features, read_labels, read_names

MODEL = "random:vit_tiny_patch2_8?taps=1,2"


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return stop.value.code, captured.out, captured.err


def scores(text: str) -> list[tuple[int, str, float]]:
    return [
        (level["level"], score["metric"], score["value"])
        for record in json.loads(text)
        for level in record["levels"]
        for score in level["scores"]
    ]


def clusters(seed: int = 0, *, shift: float = 2.0, half: bool = False) -> dict[str, np.ndarray]:
    """Three classes of 30 train and 10 test images; ids and rows in one random order."""
    draw = np.random.default_rng(seed)
    content = {}
    for split, each in (("train", 30), ("test", 10)):
        labels = np.repeat(np.arange(3), each)
        features = np.random.default_rng(7).standard_normal((3 * each, 8)) + shift * labels[:, None] * np.eye(8)[0]
        order = draw.permutation(3 * each)
        content[f"{split}_level0"] = features[order].astype(np.float16 if half else np.float32)
        content[f"{split}_labels"] = labels[order]
        content[f"{split}_ids"] = np.array([f"{split}/{row:03}.png" for row in order])
    return content


@pytest.mark.parametrize("kind", ["npy", "parquet"])
def test_import__of_an_export_gives_the_encoders_own_numbers(capsys: pytest.CaptureFixture[str], kind: str) -> None:
    data = ("--dataset", "digits", "--max-samples", 300)
    assert run(capsys, "extract", "--model", MODEL, *data, "--format", kind, "--out", "f", "--quiet")[0] == 0
    code, out, err = run(capsys, "import", "f", "--name", "mine")
    assert code == 0, err
    assert "train: 300 images of 10 classes" in out
    for probe in ("knn", "linear"):
        own = run(capsys, probe, "--model", MODEL, *data, "--json", "--quiet", "--precision", "fp32")[1]
        imported = run(capsys, probe, "--model", "features:mine", "--json", "--quiet")
        assert imported[0] == 0, imported[2]
        assert [row[:2] for row in scores(imported[1])] == [row[:2] for row in scores(own)]
        if probe == "knn":
            assert scores(imported[1]) == scores(run(capsys, probe, "--model", MODEL, *data, "--json", "--quiet")[1])


def test_import__order_of_rows_changes_nothing_where_images_have_ids(tmp_path: Path) -> None:
    stores = []
    for seed in (1, 2):
        np.savez(tmp_path / f"{seed}.npz", **clusters(seed))
        stores.append(import_features([tmp_path / f"{seed}.npz"], name=f"m{seed}").stores)
    assert stores[0]["train"].manifest.key == stores[1]["train"].manifest.key
    train = stores[0]["train"]
    assert read_labels(train)[:6].tolist() == [0, 1, 2, 0, 1, 2], "balanced from the first on"
    content = clusters(2)
    row = content["train_ids"].tolist().index(read_names(train)[5])
    np.testing.assert_array_equal(read_features(train, 0)[5], content["train_level0"][row])


def test_import__half_precision_stays_and_integers_and_doubles_become_float32(tmp_path: Path) -> None:
    np.savez(tmp_path / "h.npz", **clusters(half=True))
    assert read_features(import_features([tmp_path / "h.npz"], name="h").stores["test"], 0).dtype == np.float16
    content = clusters() | {"train_level0": np.arange(720).reshape(90, 8), "test_level0": np.ones((30, 8)) / 3}
    np.savez(tmp_path / "d.npz", **content)
    stores = import_features([tmp_path / "d.npz"], name="d").stores
    assert {read_features(store, 0).dtype for store in stores.values()} == {np.dtype(np.float32)}


def test_eval__needs_no_dataset_and_compare_takes_two_imported_models(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name, shift, seed in (("good", 3.0, 1), ("bad", 0.5, 2)):
        np.savez(tmp_path / f"{name}.npz", **clusters(seed, shift=shift))
        assert run(capsys, "import", tmp_path / f"{name}.npz", "--name", name)[0] == 0
        options = ("--out", name, "--ways", 3, "--queries", 4, "--episodes", 20, "--quiet")
        code, out, err = run(capsys, "eval", "--model", f"features:{name}", *options)
        assert code == 0, err
        assert "no baseline is in view" not in out
        assert Path(name, "report.html").is_file()
    code, out, err = run(capsys, "compare", "good", "bad", "--json")
    assert code == 0, err
    assert json.loads(out)
    code, out, err = run(capsys, "knn", "--model", "features:good", "--model", "features:bad", "--quiet")
    assert code == 0, err
    assert "features:bad" in out


def test_import__train_alone_is_enough_for_leave_one_out(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    content = {key: value for key, value in clusters().items() if key.startswith("train")}
    np.savez(tmp_path / "f.npz", **content)
    assert run(capsys, "import", tmp_path / "f.npz", "--name", "half")[0] == 0
    code, out, err = run(capsys, "knn", "--model", "features:half", "--leave-one-out", "--json", "--quiet")
    assert code == 0, err
    assert json.loads(out)[0]["dataset"]["test_images"] == 0
    code, out, err = run(capsys, "linear", "--model", "features:half", "--quiet")
    assert (code, out) == (2, "")
    assert "features:half has train features only" in err
    assert "--leave-one-out" in err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_level0": np.full((90, 8), np.nan)}, r"row \d+ holds nan, which is no finite number, and 89 more rows"),
        ({"test_level0": np.full((30, 8), 1e200)}, r"holds 1e\+200, which is too large for float32"),
        ({"test_level0": np.full((30, 8), 1e-200)}, r"so small that float32 holds zeros only; scale the features"),
        ({"test_level0": np.ones((30, 7))}, r"level 0: train has 8 numbers per image and test has 7 numbers"),
        ({"test_level1": np.ones((30, 8))}, r"level 1: train has none and test has 8"),
        ({"test_labels": np.full(30, 5)}, r"has label 5, but train has 3 classes"),
        ({"train_labels": np.arange(90) * 2}, r"class numbers of .* run from 0 to 178; .*--classes with the name"),
        ({"train_labels": np.arange(90) - 1}, r"holds -1; class numbers begin at 0"),
        ({"train_labels": np.linspace(0, 1, 90)}, r"labels of train are no whole numbers"),
        ({"test_labels": np.array(["cat"] * 30)}, r"labels of test are no whole numbers, and those of the other split"),
    ],
)
def test_import__what_does_not_fit_is_one_line_and_leaves_no_model(
    tmp_path: Path, change: dict[str, np.ndarray], message: str
) -> None:
    np.savez(tmp_path / "f.npz", **(clusters() | change))
    with pytest.raises((StoreError, DataError), match=message) as error:
        import_features([tmp_path / "f.npz"], name="mine", cache_dir=tmp_path / "cache")
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "cache").rglob("*.*"))


def test_names__lead_to_what_they_led_to_unless_replaced(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **clusters())
    np.savez(tmp_path / "b.npz", **clusters(shift=1.0))
    first = import_features([tmp_path / "a.npz"], name="mine")
    assert import_features([tmp_path / "a.npz"], name="mine").identity == first.identity
    with pytest.raises(StoreError, match=r"features:mine leads to other features already; .*--replace"):
        import_features([tmp_path / "b.npz"], name="mine")
    assert import_features([tmp_path / "b.npz"], name="mine", replace=True).identity != first.identity
    with pytest.raises(StoreError, match=r"--name '\.\./x': expected letters"):
        import_features([tmp_path / "a.npz"], name="../x")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--model", "features:mien"), r"unknown imported features 'features:mien' (did you mean 'features:mine'?)"),
        (("--model", "features:mine", "--dataset", "digits"), "brings its features and labels, so --dataset"),
        (("--model", "features:mine", "--model", "pixels:8"), "features:mine has no images that pixels:8 could be"),
        (("--model", "features:mine", "--level", "3"), "unknown level of features:mine '3'; known: 0"),
    ],
)
def test_probes__say_what_imported_features_cannot_give(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    np.savez(tmp_path / "a.npz", **clusters())
    import_features([tmp_path / "a.npz"], name="mine")
    code, out, err = run(capsys, "knn", *options, "--quiet")
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_probes__damage_of_an_imported_store_is_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **clusters())
    store = import_features([tmp_path / "a.npz"], name="mine").stores["test"]
    shard = store.folder / store.manifest.shards[0].file
    content = bytearray(shard.read_bytes())
    content[-3] ^= 1
    shard.write_bytes(content)
    code, _, err = run(capsys, "knn", "--model", "features:mine", "--quiet")
    assert code == 2
    assert "is damaged: its sha256 does not match the manifest; import it again" in err
    import_features([tmp_path / "a.npz"], name="mine")
    assert run(capsys, "knn", "--model", "features:mine", "--quiet")[0] == 0
