"""Dense: what the tokens of every level say of the places that they stand for."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from hjepa_eval.config import Settings
from hjepa_eval.evaluation.probe import Plan, Probe
from hjepa_eval.evaluation.settings import PROBE as GROUP
from hjepa_eval.evaluation.settings import option, token_images_option
from hjepa_eval.results.headings import HEADINGS, dense_heading

if TYPE_CHECKING:
    from collections.abc import Callable

    from hjepa_eval.datasets.protocol import ImageDataset
    from hjepa_eval.evaluation.findings import Finding
    from hjepa_eval.evaluation.rows import LevelRow

DenseProtocol = Literal["knn-segmentation", "linear-segmentation", "depth", "correspondence", "discovery"]
_DEVIATIONS = {
    "knn-segmentation": (
        "ignored pixels (255) take no part, where open-hummingbird-eval counts them as class 0; the whole image once, "
        "no augmented passes over train",
    ),
    "linear-segmentation": (
        "logistic regression of standardised tokens on the most frequent class of each, as CAPI, where DINOv3 trains "
        "by SGD on crops; its scores are interpolated",
    ),
    "depth": ("ridge regression of each cell's mean depth, where DINOv3 and Probe3D train on bins or a decoder",),
    "correspondence": ("known warps of the same image, where SPair has annotated key-points of different ones",),
    "discovery": (
        "LOST's expansion on a level's centred tokens, where LOST takes keys of the last block; an eighth of the "
        "tokens may expand, at most 100",
    ),
}
_MAPS = {
    "knn-segmentation": ("class",),
    "linear-segmentation": ("class",),
    "depth": ("depth",),
    "discovery": ("class",),
}
_RULES = {
    "knn-segmentation": "mIoU of at most 200 held-out train images, searched in the rest",
    "linear-segmentation": "mIoU of a held-out tenth of train, after a fit to the rest",
    "depth": "R2 of a held-out tenth of train, after a fit to the rest",
}


class DenseSettings(Settings):
    """Tokens and the pixels that they stand for."""

    dense_protocol: DenseProtocol = option(
        "knn-segmentation",
        "knn-segmentation and linear-segmentation (of data sets with masks), depth (with depth maps), correspondence "
        "(of any images), discovery (with masks)",
        group=GROUP,
        alias="protocol",
    )
    token_images: int | None = token_images_option()
    neighbours: int = option(30, "k of knn-segmentation", group=GROUP, ge=1)
    bank: int = option(
        1 << 18,
        "train tokens that knn-segmentation searches in, at most; more are drawn, rare classes first",
        group=GROUP,
        ge=1,
    )
    fit_tokens: int = option(1 << 15, "train tokens that linear-segmentation is fitted to, at most", group=GROUP, ge=2)
    pairs: int = option(500, "test images that correspondence warps, at most", group=GROUP, ge=1)


def plan_dense(settings: DenseSettings) -> Plan:
    """Return the dense probe under the protocol that the settings name."""
    from hjepa_eval.evaluation.models.tokens import TokenNeed
    from hjepa_eval.evaluation.plans import places, segmentation

    protocol = settings.dense_protocol
    read = {
        "knn-segmentation": ("neighbours", "bank"),
        "linear-segmentation": ("fit_tokens",),
        "correspondence": ("pairs",),
    }
    parameters: dict[str, Any] = {name: getattr(settings, name) for name in read.get(protocol, ())}
    beside = {}
    if protocol == "correspondence":
        beside = {"squares": partial(_changed, count=settings.pairs), "warped": partial(_warped, count=settings.pairs)}
    runs: dict[str, Callable[[LevelRow, int, bool], Finding]] = {
        "knn-segmentation": partial(segmentation.segment_by_knn, k=settings.neighbours, bank=settings.bank),
        "linear-segmentation": partial(segmentation.segment_linear, limit=settings.fit_tokens),
        "depth": places.tell_depth,
        "correspondence": places.correspond,
        "discovery": places.discover_objects,
    }
    return Plan(
        protocol=protocol,
        parameters={"readout": "tokens", "token_images": settings.token_images, **parameters},
        run=runs[protocol],
        deviations=_DEVIATIONS[protocol],
        rule=_RULES.get(protocol, ""),
        heading=dense_heading(protocol),
        may_be_left_out=True,
        tokens=TokenNeed(images=settings.token_images, beside=beside, places=True, maps=_MAPS.get(protocol, ())),
    )


def _changed(images: ImageDataset, *, count: int) -> ImageDataset:
    from hjepa_eval.datasets.changes.changed import ChangedImages

    return ChangedImages(images, None, count=min(count, len(images)))


def _warped(images: ImageDataset, *, count: int) -> ImageDataset:
    from hjepa_eval.datasets.changes.changed import ChangedImages
    from hjepa_eval.datasets.changes.warps import Warp

    return ChangedImages(images, Warp(), count=min(count, len(images)))


PROBE = Probe(
    "dense",
    HEADINGS["dense"],
    "Segmentation by nearest neighbours unless --protocol says otherwise; each number stands beside the ceiling that "
    "the level's grid allows. Test is touched once.",
    settings=DenseSettings,
    plan=plan_dense,
)
