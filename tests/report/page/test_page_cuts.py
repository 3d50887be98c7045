"""What a page leaves out, and of which part of the data its numbers are, is said where the numbers stand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_page import gallery_of
from made_records import compared, record_of

from hjepa_eval.report.page.neighbours import MOST_NEIGHBOURS, MOST_QUERIES, unshown
from hjepa_eval.report.page.page import MOST_HEADLINES, build_page
from hjepa_eval.report.tables.model_pairs import Located
from hjepa_eval.report.tables.selection import select_records
from hjepa_eval.report.tables.statements import explanations
from hjepa_eval.report.tables.table import data_notes
from hjepa_eval.results.records import Record


def part_of(page: str, name: str) -> str:
    """Return one part of a page, or with an empty name what stands above all parts."""
    if not name:
        return page[: page.index("<main")]
    start = page.index(f'id="{name}" aria-labelledby')
    return page[start : page.index("</section>", start)]


def limited(record: Record, most: int) -> Record:
    """Return the record as one of `--max-samples`."""
    made = record.provenance.model_copy(update={"settings": {"max_samples": most}})
    return record.model_copy(update={"provenance": made})


def test_page__says_how_many_headline_scores_it_leaves_out(tmp_path: Path) -> None:
    located = [Located(record_of(model=f"runs/{place}"), tmp_path) for place in range(MOST_HEADLINES + 3)]
    above = part_of(build_page(located, []), "")
    assert above.count('<p class="big">') == MOST_HEADLINES
    assert "3 more headline scores are in the table of the Overview" in above
    assert "more headline scores" not in build_page(located[:MOST_HEADLINES], [])


def test_page__says_below_the_table_which_part_of_the_data_it_is_of(tmp_path: Path) -> None:
    record = limited(record_of(), 355)
    note = "train is 10 % of each class, 144 images drawn with seed 0"
    record = record.model_copy(update={"dataset": record.dataset.model_copy(update={"notes": (note,)})})
    overview = part_of(build_page([Located(record, tmp_path)], []), "overview")
    for text in (note, "--max-samples 355: at most 355 images of a split are used"):
        assert overview.count(text) == 1
        assert overview.index(text) < overview.index("Accuracy by level")


@pytest.mark.parametrize(("most", "said"), [(1442, True), (355, True), (1443, False)])
def test_data_notes__name_a_limit_that_left_images_out(most: int, said: bool) -> None:
    assert bool(data_notes([limited(record_of(), most)])) is said


def test_page__says_beside_the_map_what_the_gallery_sampled(tmp_path: Path) -> None:
    note = "of 5,000 test images the map shows the first 1,000"
    page = build_page([Located(record_of(), tmp_path)], [replace(gallery_of(), notes=(note,))])
    assert note in part_of(page, "map")


def test_neighbours__a_larger_gallery_is_cut_and_says_so() -> None:
    small = gallery_of()
    assert unshown(small) == ""
    near = small.neighbourhoods
    many = np.zeros((2, MOST_QUERIES + 6, MOST_NEIGHBOURS + 8), np.int64)
    large = replace(small, neighbourhoods=replace(near, train_index=many))
    assert (
        unshown(large) == "Of this gallery the page shows 24 of 30 test images and the nearest 12 of 20 train images."
    )


def test_explanations__say_that_of_many_levels_some_pairs_are_named() -> None:
    few, many = (compared(record_of(values=(0.5,) * count), (1, 0, 0.0, 1.0)) for count in (3, 4))
    assert not any("the records have all pairs" in line for line in explanations(select_records([few])))
    assert any("Of more than 3 levels" in line for line in explanations(select_records([many])))
