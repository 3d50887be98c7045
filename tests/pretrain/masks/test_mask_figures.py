from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hjepa_pretrain.masks import HierarchicalMaskGenerator, MultiBlockMaskGenerator, RandomMaskGenerator
from hjepa_pretrain.masks.figures import draw_masks
from hjepa_pretrain.masks.tiles import CONTEXT, NEITHER, TARGET
from matplotlib.colors import to_hex

from hjepa_eval.errors import ConfigError


def texts(figure: object) -> str:
    found = [figure.get_suptitle()]
    for panel in figure.axes:
        found += [panel.get_title(), panel.get_xlabel(), panel.get_ylabel()]
    found += [text.get_text() for text in figure.legends[0].get_texts()]
    return "\n".join(found)


@pytest.mark.rows("B4", "B9")
def test_figures__tiles_and_numbers_are_those_of_the_masks() -> None:
    context = torch.zeros(2, 12, dtype=torch.bool)
    context[:, :3] = True
    targets = torch.zeros(2, 2, 12, dtype=torch.bool)
    targets[:, 0, 4:6] = targets[:, 1, 5:8] = True
    figure = draw_masks(context, targets, (3, 4), title="Masks of a test")
    tiles = figure.axes[0].images[0].get_array()
    colours = [to_hex(tiles[row, column]).upper() for row in range(3) for column in range(4)]
    assert colours == [CONTEXT] * 3 + [NEITHER] + [TARGET] * 4 + [NEITHER] * 4
    said = texts(figure)
    for part in ("Masks of a test: 3x4 tokens, batch of 2", "context 25%, targets 33%", "mean 33% (0% to 100%)"):
        assert part in said
    assert "block 1" in said
    # Two blocks of two and three tokens: six and eight sides.
    assert [len(lines.get_segments()) for lines in figure.axes[0].collections[-2:]] == [6, 8]


def test_figures__hierarchical_ones_name_every_level(tmp_path: Path) -> None:
    masks = HierarchicalMaskGenerator(32, 4)
    drawn = masks(16)
    levels = masks.visualize_hierarchical_masks(drawn, count=2, save_path=tmp_path / "levels.png")
    combined = masks.visualize_combined_view(drawn, count=2, save_path=str(tmp_path / "combined.svg"))
    for level in range(3):
        assert f"level {level}" in texts(levels)
        assert f"targets of level {level}" in texts(combined)
    assert "blocks on 4x4 tokens" in texts(levels)
    assert "at 3 of 3" in texts(combined)
    assert (tmp_path / "levels.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "combined.svg").read_text()


def test_figures__more_levels_than_colours_are_drawn() -> None:
    masks = HierarchicalMaskGenerator(64, 4, 5, scale_progression="linear")
    assert "targets of level 4" in texts(masks.visualize_combined_view(masks(2), count=1))


def test_figures__leave_pyplot_alone() -> None:
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    masks = RandomMaskGenerator(32, 4, context_tokens=24)
    assert "Random masks" in texts(masks.visualize_masks(*masks(4), count=9))
    assert plt.get_fignums() == before


def test_figures__a_file_that_cannot_be_written_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    masks = MultiBlockMaskGenerator(32, 4)
    drawn = masks(4)
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").touch()
    for name, message in [
        ("masks.jpeg", "pictures end in .png"),
        ("file/new/masks.png", "file is no folder"),
        ("folder.png", "it is a folder"),
    ]:
        with pytest.raises(ConfigError, match=message):
            masks.visualize_masks(*drawn, save_path=tmp_path / name)
    assert {path.name for path in tmp_path.iterdir()} == {"folder.png", "file"}
