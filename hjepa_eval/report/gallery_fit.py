"""Whether the parts of a gallery fit each other, so that who draws it need not ask."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hjepa_eval.report.gallery import Gallery


def mismatches(gallery: Gallery) -> list[str]:
    """Return which parts of a gallery do not fit each other; an empty list when all is well."""
    shown, plane, masks = gallery.neighbourhoods, gallery.map, gallery.masks
    levels, (on_map,), (queries,) = len(gallery.levels), plane.index.shape, shown.index.shape
    near = (levels, queries, *shown.train_index.shape[2:3])
    fits = {
        "map": (plane.labels.shape, plane.points.shape, plane.explained.shape)
        == ((on_map,), (levels, on_map, 2), (levels, 2)),
        "neighbours": (shown.labels.shape, len(shown.chosen)) == ((queries,), queries)
        and all(each.shape == near for each in (shown.train_index, shown.train_labels, shown.similarity)),
        "labels": all(
            ((each >= 0) & (each < len(gallery.class_names))).all()
            for each in (plane.labels, shown.labels, shown.train_labels)
        ),
    }
    needed = {("test", place) for place in [*plane.index.tolist(), *shown.index.tolist()]}
    needed |= {("train", place) for place in shown.train_index.ravel().tolist()}
    if masks is not None:
        needed |= {("train", place) for place in masks.index.tolist()}
        sets, examples, tokens = len(masks.context), len(masks.index), masks.grid[0] * masks.grid[1]
        fits["masks"] = masks.context.shape == (sets, examples, tokens) and masks.targets.shape == (
            *(sets, examples, *masks.targets.shape[2:3], tokens),
        )
    fits["images"] = needed <= gallery.images.keys()
    return [f"its {part} do not fit the rest" for part, whole in fits.items() if not whole]
