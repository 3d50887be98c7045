"""What is asked of an evaluation: several models, globs of runs, probes with options of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from hjepa_eval.errors import ConfigError, EncoderError, HjepaError, UnknownNameError
from hjepa_eval.evaluation.plans import PROBES
from hjepa_eval.evaluation.probe import load_probe
from hjepa_eval.evaluation.request import expand_models, read_aliases, read_request
from hjepa_eval.evaluation.settings import EvalSettings, ProbeSettings


def made_run(folder: str, *, finished: bool = True) -> None:
    Path(folder).mkdir(parents=True)
    (Path(folder) / "config.json").write_text("{}")
    if finished:
        (Path(folder) / "summary.json").write_text("{}")


def test_models__are_kept_in_order_each_once_and_commas_stay() -> None:
    models = ["pixels:8", "mine.py:build?layers=blocks.1,blocks.3", "pixels:8"]
    assert expand_models(models) == ("pixels:8", "mine.py:build?layers=blocks.1,blocks.3")


def test_models__two_in_one_name_are_told_how_to_be_two() -> None:
    with pytest.raises(EncoderError, match="give each its own: --model random:resnet18 --model pixels:8"):
        expand_models(["random:resnet18,pixels:8"])


def test_models__a_glob_is_all_runs_by_name_with_its_options() -> None:
    for name in ("b", "a"):
        made_run(f"runs/{name}")
    Path("runs/notes.txt").write_text("no run")
    assert expand_models(["runs/*?encoder=context"]) == ("runs/a?encoder=context", "runs/b?encoder=context")
    assert expand_models([str(Path("runs").absolute() / "*")]) == tuple(str(Path("runs").absolute() / n) for n in "ab")


def test_models__an_unfinished_run_of_a_glob_is_named() -> None:
    made_run("runs/a")
    made_run("runs/b", finished=False)
    with pytest.raises(EncoderError, match="not finished: runs/b; let it go on with hjepa pretrain --resume runs/b"):
        expand_models(["runs/*"])


def test_models__a_glob_without_runs_says_so() -> None:
    with pytest.raises(EncoderError, match="no pretraining run there"):
        expand_models(["runs/*"])


def test_request__options_reach_the_probe_that_has_them() -> None:
    request = read_request(EvalSettings, flags={"k": ["3"], "c": ["1"], "superclasses": "s.json", "episodes": "9"})
    options = {probe.name: own for probe, own in request.probes}
    assert list(options) == ["knn", "linear", "fewshot"]
    assert options["knn"].k == (3,)
    assert options["linear"].c == (1.0,)
    assert options["fewshot"].episodes == 9
    assert options["knn"].superclasses == options["linear"].superclasses == Path("s.json")


def test_request__the_protocol_of_one_of_several_probes_has_its_own_name() -> None:
    request = read_request(EvalSettings, flags={"knn_protocol": "solo", "linear_protocol": "ridge"})
    assert [own.model_dump(by_alias=True)["protocol"] for _, own in request.probes[:2]] == ["solo", "ridge"]
    with pytest.raises(ConfigError, match="unknown key 'protocol'"):
        read_request(EvalSettings, flags={"protocol": "solo"})
    alone = read_request(ProbeSettings, probes=[load_probe("knn")], flags={"protocol": "solo"})
    assert alone.probes[0][1].knn_protocol == "solo"


def test_request__an_option_of_a_probe_that_does_not_run_is_an_error() -> None:
    with pytest.raises(ConfigError, match="unknown key 'episodes'"):
        read_request(EvalSettings, flags={"probes": "knn", "episodes": "9"})


def test_request__all_problems_of_all_probes_are_in_one_message() -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'kk'.*k\.0.*episodes"):
        read_request(EvalSettings, flags={"kk": 1, "k": ["0"], "episodes": "x"})


def test_probes__are_declared_under_their_names() -> None:
    assert {name: load_probe(name).name for name in PROBES} == {name: name for name in PROBES}


def test_probes__of_a_file_come_with_what_lies_beside_it(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("TITLE = 'my probe'")
    (tmp_path / "mine.py").write_text(
        "import beside\nfrom hjepa_eval.config import Settings\nfrom hjepa_eval.evaluation.probe import Plan, Probe\n"
        "from hjepa_eval.results.headings import Heading\n"
        "PROBE = Probe('mine', Heading(title=beside.TITLE), '', settings=Settings, "
        "plan=lambda own: Plan('p', {}, None))\n"
    )
    request = read_request(EvalSettings, flags={"probes": f"knn,{tmp_path}/mine.py:PROBE"})
    assert [probe.heading.title for probe, _ in request.probes] == ["kNN", "my probe"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = (", "SyntaxError"),
        ("PROBE = 3", "is no probe"),
        ("raise ValueError('why')", r"broken.py failed: ValueError: why\n  .*broken.py, line 1, in <module>\n"),
    ],
)
def test_probes__what_a_file_lacks_is_said(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(text)
    with pytest.raises(HjepaError, match=words):
        load_probe(f"{tmp_path}/broken.py:PROBE")


def test_probes__an_unknown_name_is_told_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'linear'"):
        load_probe("linera")


def test_request__a_seed_beside_seeds_is_refused_where_nothing_is_drawn_with_it() -> None:
    both = {"seed": 5, "seeds": "0,1"}
    with pytest.raises(ConfigError, match="--seed 5 beside --seeds 0,1 has no effect; leave out --seed"):
        read_request(ProbeSettings, probes=[load_probe("knn")], flags={"model": "pixels:8", **both})
    for drawn in ({"model": "random:resnet18"}, {"model": "kmeans"}, {"model": "pixels:8", "views": 1}):
        read_request(ProbeSettings, probes=[load_probe("linear")], flags={**drawn, **both})
    read_request(EvalSettings, flags={"model": "pixels:8", **both})
    with pytest.raises(ConfigError, match="has no effect"):
        read_request(EvalSettings, flags={"model": "pixels:8", "baselines": "none", **both})


def test_request__an_alias_is_taken_from_a_name_and_from_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a=b").mkdir()
    models = ("late=enc.py:late?layers=1,2", "enc.py:early?checkpoint=x.pth", "runs/x?encoder=context", "a=b")
    assert read_aliases(models) == (("enc.py:late?layers=1,2", *models[1:]), {"enc.py:late?layers=1,2": "late"})
    for wrong in (("a=pixels:8", "a=pixels:4"), ("a=pixels:8", "b=pixels:8")):
        with pytest.raises(ConfigError, match="each alias is for one model"):
            read_aliases(wrong)


def test_profile__beside_probes_takes_options_of_its_own_and_no_other_may() -> None:
    given = ["probes=knn,profile", "changes=true", "map_measures=cknna", "max_samples=50"]
    profile = read_request(EvalSettings, assignments=given).profile
    assert profile is not None
    assert (profile.all_parts[-1], profile.map_measures, profile.max_samples) == ("changes", ("cknna",), 50)
    with pytest.raises(ConfigError, match="unknown key 'changes'"):
        read_request(EvalSettings, assignments=["probes=knn", "changes=true"])
    with pytest.raises(ConfigError, match="change_images"):
        read_request(EvalSettings, assignments=["probes=knn,profile", "change_images=1"])
