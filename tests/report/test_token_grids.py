"""Tables of tokens: ceilings beside numbers, levels against tokens, in every format and on the page."""

from pathlib import Path

import pytest
from made_records import HOSTILE, record_of

from hjepa_eval.report.formats.named import FORMATS
from hjepa_eval.report.page.page import build_page
from hjepa_eval.report.tables.model_pairs import Located
from hjepa_eval.report.token_grids import levels_against_tokens, token_grids
from hjepa_eval.results.headings import HEADINGS, dense_heading
from hjepa_eval.results.records import Contrast, LevelResult, Record, Score


def _score(metric: str, value: float, *, headline: bool = False, **parameters: int | str) -> Score:
    return Score(
        metric=metric,
        parameters=parameters,
        value=value,
        low=value - 0.02,
        high=value + 0.03,
        num_samples=50,
        interval="bootstrap over images 95%",
        headline=headline,
    )


def _dense() -> Record:
    levels = tuple(
        LevelResult(
            level=level,
            name=f"block {level}",
            width=8,
            tokens=16,
            scores=(
                _score("miou", value, headline=True),
                _score("accuracy", 0.9),
                _score("ceiling", ceiling, of="miou", cells="soft"),
                _score("share", value / ceiling, of="miou"),
                _score("iou", value, **{"class": HOSTILE}),
            ),
        )
        for level, (value, ceiling) in enumerate([(0.3, 0.8), (0.4, 0.5)])
    )
    protocol = "knn-segmentation"
    record = record_of("dense", protocol=protocol)
    return record.model_copy(update={"levels": levels, "heading": dense_heading(protocol)})


def _attentive() -> Record:
    keys = [("pooled", 0.5), ("tokens", 0.6)]
    single = LevelResult(
        level=0,
        name="block 1",
        width=8,
        tokens=4,
        scores=tuple(_score("top1", value, headline=True, reads=reads) for reads, value in keys),
    )
    masses = [_score("attention", 0.25 + level / 2, reads=reads, level=level) for reads, _ in keys for level in (0, 1)]
    joined = single.model_copy(
        update={"level": 2, "fused": (0, 1), "name": "levels 0+1 joined", "scores": (*single.scores, *masses)}
    )
    test = Contrast(
        first=(2, "top1 reads=tokens"),
        second=(1, "top1 reads=pooled"),
        difference=0.1,
        low=0.02,
        high=0.18,
        interval="bootstrap 95%",
        test="McNemar exact",
        p_value=0.01,
        p_holm=0.06,
        only_first=12,
        only_second=4,
    )
    levels = (single, single.model_copy(update={"level": 1}), joined)
    update = {"levels": levels, "contrasts": (test,), "heading": HEADINGS["attentive"]}
    return record_of("attentive", protocol="efficient-probing").model_copy(update=update)


def test_dense_grid__has_the_ceiling_and_the_share_beside_each_number() -> None:
    (grid,) = token_grids([_dense()])
    lines = {line.name: [cell.text for cell in line.cells if cell] for line in grid.lines}
    assert lines["mIoU"] == ["30.0", "40.0"]
    assert lines["ceiling of mIoU"] == ["80.0", "50.0"]
    assert lines["share of the ceiling of mIoU"] == ["37.5", "80.0"]


def test_attentive_grid__is_last_and_all_by_pooled_and_tokens_with_tests_in_both_directions() -> None:
    grid = levels_against_tokens(_attentive())
    assert grid is not None
    assert grid.columns == ("level 1", "all levels")
    assert [line.name for line in grid.lines] == ["pooled", "all tokens"]
    assert grid.notes == (
        "all levels tokens - level 1 pooled: +10.0 [+2.0, +18.0]; right alone 12 against 4; 0.06 (Holm)",
    )
    attention = token_grids([_attentive()])[1]
    assert [cell.text for cell in attention.lines[0].cells if cell] == ["25.0", "75.0"]


@pytest.mark.parametrize("name", ["table", "md", "latex", "csv", "json"])
def test_formats__hold_ceilings_and_levels_against_tokens(name: str) -> None:
    text = FORMATS[name]([_dense(), _attentive()])
    if name in ("csv", "json"):
        assert "ceiling" in text
        assert "attention" in text
    else:
        assert "share of the ceiling" in text
        assert "Levels against tokens" in text
        assert "Attention mass by level" in text
    assert "\n|c|" not in text


def test_page__has_a_part_of_tokens_with_ceilings_as_ticks_and_only_then() -> None:
    page = build_page([Located(_dense(), Path()), Located(_attentive(), Path())], [])
    assert 'href="#tokens"' in page
    assert "--value:0.3000;--ceiling:0.8000" in page
    assert "30.0 of 80.0" in page
    assert "<script>alert" not in page
    assert 'href="#tokens"' not in build_page([Located(record_of("knn"), Path())], [])
