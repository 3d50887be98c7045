from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import Field

from hjepa_eval.config import Settings, build, find_preset, load, parse_assignments, parse_yaml
from hjepa_eval.errors import ConfigError, HjepaError, did_you_mean, unknown


class Inner(Settings):
    depth: int = 6
    rate: float = 0.1


class Outer(Settings):
    inner: Inner = Inner()
    name: str = "schema"
    cache: str = Field("schema", json_schema_extra={"env": "HJEPA_TEST_CACHE"})
    map_method: str = Field("schema", alias="map", json_schema_extra={"env": "HJEPA_TEST_MAP"})


def test_load__flags_beat_environment_beats_yaml_beats_schema(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(Outer).cache == "schema"
    file = tmp_path / "x.yaml"
    file.write_text("cache: yaml\n")
    assert load(Outer, config=file).cache == "yaml"
    monkeypatch.setenv("HJEPA_TEST_CACHE", "environment")
    assert load(Outer, config=file).cache == "environment"
    assert load(Outer, config=file, flags={"cache": "flag"}).cache == "flag"
    monkeypatch.setenv("HJEPA_TEST_MAP", "environment")
    assert load(Outer).map_method == "environment"
    assert load(Outer, flags={"map": "flag"}).map_method == "flag"


def test_load__lists_everything_wrong_in_one_line_with_suggestions(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("inner: {dpeth: 3, rate: fast}\nnmae: x\n")
    with pytest.raises(ConfigError) as caught:
        load(Outer, config=file)
    message = str(caught.value)
    assert "\n" not in message
    for part in (str(file), "'inner.dpeth' (did you mean 'depth'?)", "inner.rate", "'fast'", "(did you mean 'name'?)"):
        assert part in message


def test_parse_yaml__reads_scientific_numbers_without_a_dot() -> None:
    assert parse_yaml("lr: 1e-4\nn: 3E+2\nword: e-4", "x") == {"lr": 1e-4, "n": 300.0, "word": "e-4"}


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("type: a\nnum: 1\ntype: b\n", "line 3: the key 'type' is said twice"),
        ("a: [1, 2\nb: 3", "line 2"),
        ("a: !!python/object/apply:os.getcwd []", "not valid YAML"),
    ],
)
def test_parse_yaml__names_the_line_of_a_mistake(text: str, part: str) -> None:
    with pytest.raises(ConfigError, match=part) as caught:
        parse_yaml(text, "file.yaml")
    assert str(caught.value).startswith("file.yaml")


def test_parse_assignments__nests_and_types() -> None:
    assert parse_assignments(["train.minutes=5", "train.lr=1e-3", "name=x"]) == {
        "train": {"minutes": 5, "lr": 1e-3},
        "name": "x",
    }
    with pytest.raises(ConfigError, match="KEY=VALUE"):
        parse_assignments(["train.minutes"])


def test_find_preset__suggests_the_nearest_name() -> None:
    assert find_preset("digits", "pretrain").name == "digits.yaml"
    assert find_preset("configs/pretrain/digits.yaml", "pretrain").name == "digits.yaml"
    with pytest.raises(ConfigError, match="did you mean 'digits'"):
        find_preset("digit", "pretrain")


def test_errors__share_one_parent_and_suggest() -> None:
    error = unknown("dataset", "cifra10", ["cifar10", "digits"])
    assert isinstance(error, HjepaError)
    assert str(error) == "unknown dataset 'cifra10' (did you mean 'cifar10'?); known: cifar10, digits"
    assert did_you_mean("zzzz", ["cifar10"]) == ""


def _doubling(width: int, depth: int) -> str:
    rows = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}' if i else 'x'] * width)}]" for i in range(depth)]
    return "\n".join(rows)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (_doubling(9, 10), "it stands for more than 100,000 values; write out what its aliases"),
        ("seed: &a [*a]", "line 1: it is nested deeper than 64 levels"),
        ("[" * 100_000, "it is nested deeper than 64 levels"),
        ("[" * 70 + "]" * 70, "it is nested deeper than 64 levels"),
        ("".join(" " * level + "a:\n" for level in range(2000)), "it is nested deeper than 64 levels"),
        ("seed: " + "1" * 5000, "a value cannot be read"),
        ("seed: 2001-13-45", "a value cannot be read"),
    ],
)
def test_parse_yaml__of_absurd_documents_is_one_short_error(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_yaml(text, "x.yaml")
    assert words in str(error.value)
    assert len(str(error.value)) < 400


def test_parse_yaml__a_few_aliases_are_fine() -> None:
    assert parse_yaml("a: &x [1, 2]\nb: *x", "x.yaml") == {"a": [1, 2], "b": [1, 2]}


def test_describe_problems__shows_a_long_value_cut() -> None:
    class Small(Settings):
        seed: int = 0

    with pytest.raises(ConfigError) as error:
        build(Small, {"seed": [["x" * 1000] * 1000] * 1000}, "x.yaml")
    assert len(str(error.value)) < 400
