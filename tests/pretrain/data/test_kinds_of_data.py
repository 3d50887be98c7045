"""Series, texts and tables that packages carry, and what is wrong with others, in words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hjepa_pretrain.cli.learners import find_learner, load_learner
from hjepa_pretrain.config.learners import TokensRun, learner_settings
from hjepa_pretrain.data.kinds import series, tables, texts
from hjepa_pretrain.data.kinds.series import read_series, resample
from hjepa_pretrain.data.kinds.tables import check_table, load_tables
from hjepa_pretrain.data.kinds.texts import as_characters, docstrings
from hjepa_pretrain.diagnostics.judged import build_learner, set_features, trained_learner, write_features
from hjepa_pretrain.fitting import fit

from hjepa_eval.errors import ConfigError, DataError, UnknownNameError
from hjepa_eval.evaluation.models.imported import import_features

HEAD = "@problemName made\n@data\n"


def test_series__are_read_channel_by_channel_and_resampled(tmp_path: Path) -> None:
    file = tmp_path / "made.ts"
    file.write_text(HEAD + "1,2,3:3,2,1:up\n4,4,8,8,12:1,2,3,4,5:down\n")  # ragged: 3 and 5 steps
    values, labels = read_series(file, length=5)
    assert (values.shape, labels) == ((2, 2, 5), ["up", "down"])
    np.testing.assert_allclose(values.mean(axis=2), 0, atol=1e-6)
    np.testing.assert_allclose(values.std(axis=2), 1, atol=1e-6)
    np.testing.assert_allclose(values[0, 0], -values[0, 1], atol=1e-6)
    assert np.isfinite(resample(np.ones(4), 8)).all()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("1,NaN,3:up", "line 4: a value is NaN"),
        ("1,?,3:up", "line 4: could not convert"),
        ("1,2:1,2:up", "line 4: 2 channels, others have 1"),
    ],
)
def test_series__what_is_damaged_is_named_with_its_line(tmp_path: Path, line: str, said: str) -> None:
    file = tmp_path / "made.ts"
    file.write_text(f"{HEAD}1,2,3:up\n{line}\n")
    with pytest.raises(DataError, match=said):
        read_series(file, length=8)


def test_series__a_missing_package_and_an_unknown_set_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(series.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(DataError, match=r"pip install 'hjepa\[modalities\]'"):
        series.load_series(["GunPoint"], length=64)


def test_texts__characters_words_and_sentences() -> None:
    state = as_characters(["It is. So é"], length=14)
    assert state["characters"][0].tolist()[:4] == [73, 116, 32, 105]
    assert state["characters"][0].tolist()[10:] == [0, -1, -1, -1]
    assert state["words"][0].tolist() == [0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 3, -1, -1, -1]
    assert state["sentences"][0].tolist() == [0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, -1, -1, -1]
    with pytest.raises(DataError, match="text 1 is empty"):
        as_characters(["fine", "  "], length=8)
    with pytest.raises(DataError, match="no set of texts 'scence'"):
        texts.load_texts(["scence"], length=8)


def test_texts__docstrings_are_those_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "made.py"
    file.write_text('"""' + "Of the module. " * 4 + '"""\n\ndef short():\n    """No."""\n')
    assert list(docstrings(file)) == [" ".join(["Of the module."] * 4)]
    file.write_text("def broken(:\n")
    assert not list(docstrings(file))


def test_tables__mixed_types_and_missing_numbers_are_told() -> None:
    with pytest.raises(DataError, match="columns of mixed types"):
        check_table("mine", np.array([["a", 1]], dtype=object))
    with pytest.raises(DataError, match="no number in row 1, column 0"):
        check_table("mine", np.array([[1.0], [np.nan]]))
    with pytest.raises(UnknownNameError, match="did you mean 'wine'"):
        load_tables(["wien"])


def test_tables__columns_of_all_tables_are_numbered_apart() -> None:
    corpus = load_tables(["wine", "breast_cancer"])
    assert corpus.arguments == {"columns": 43}
    assert corpus.sets[1].train["columns"][0].tolist() == list(range(13, 43))
    assert corpus.sets[0].train["columns"][0].tolist() == [*range(13), *[-1] * 17]
    assert abs(float(corpus.sets[0].train["values"][:, :13].mean())) < 0.05
    assert len(corpus.examples["values"]) == sum(len(part.train_labels) for part in corpus.sets)
    assert set(tables.SETS) >= {"wine", "fair"}


def test_settings__a_length_that_nothing_reads_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.length is of series and texts"):
        learner_settings({"task": "tabular", "data": {"length": 64}, "train": {"epochs": 1}}, "test")


@pytest.mark.rows("D5")
def test_run__a_table_becomes_levels_that_evaluation_reads(tmp_path: Path) -> None:
    preset = find_learner("tabular")
    assert preset is not None
    values = ["data.sets=[wine]", "train.epochs=1", "train.batch_size=32", "model.width=16", "model.depth=3"]
    settings = load_learner(preset, values, flags={})
    assert isinstance(settings, TokensRun)
    assert learner_settings(settings.model_dump(mode="json"), "a run's config.json") == settings
    corpus = load_tables(["wine"])
    learner = build_learner(settings, corpus)
    train = settings.train.model_dump(exclude_unset=True)
    fit(learner, corpus.examples, run_dir=tmp_path, train=train, diagnostics={"bank": 32}, say=[].append)
    (file,) = write_features(settings, corpus, tmp_path)
    trained = set_features(trained_learner(settings, corpus, tmp_path), corpus.sets[0])
    untrained = set_features(build_learner(settings, corpus), corpus.sets[0])
    assert not np.allclose(trained["train_level2"], untrained["train_level2"])
    made = import_features([file], name="wine", cache_dir=tmp_path / "cache")
    assert [level.width for level in made.stores["test"].manifest.levels] == [16, 16, 16]
    assert made.stores["test"].manifest.rows == 60
