"""What settings make of masks, before anything is trained: a picture of every kind, and its statistics."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from hjepa_pretrain.masks.figures import check_picture
from hjepa_pretrain.masks.hierarchical import HierarchicalMaskGenerator
from hjepa_pretrain.masks.kinds import create_mask_generator

if TYPE_CHECKING:
    from hjepa_pretrain.config.settings import MaskingSettings


@dataclass(frozen=True)
class Preview:
    """Masks of one kind.

    Attributes:
        kind: `multi_block`, `hierarchical` or `random`.
        files: pictures that were written.
        statistics: see `mask_statistics`; of hierarchical masks by level, of others under the name `all levels`.
    """

    kind: str
    files: tuple[Path, ...]
    statistics: dict[str, dict[str, Any]]


def preview_masks(
    masking: MaskingSettings,
    out: Path,
    *,
    image_size: int,
    patch_size: int,
    num_levels: int,
    context_tokens: int,
    count: int = 4,
    batch: int = 1024,
    seed: int = 0,
) -> list[Preview]:
    """Draw every kind of masks with these settings, the kind that they name first, and return what was made.

    That kind goes to `out`, the others and the combined view of hierarchical masks beside it: `masks.png`,
    `masks-hierarchical.png`, `masks-random.png`, `masks-combined.png`.

    Args:
        masking: what is asked for.
        out: the picture; its folder is made when absent.
        image_size: side in pixels.
        patch_size: side of a patch in pixels.
        num_levels: levels of the model.
        context_tokens: that every image has at least.
        count: images to draw.
        batch: images that statistics are made of, at least `count`.
        seed: of the masks.

    Raises:
        ConfigError: settings contradict each other, or a picture cannot be written; nothing has been drawn then, unless
            the disk is full.
    """
    known = get_args(type(masking).model_fields["type"].annotation)
    kinds = [masking.type, *(kind for kind in known if kind != masking.type)]
    paths = {kind: out if kind == masking.type else _beside(out, kind) for kind in kinds}
    combined = _beside(out, "combined")
    for path in (*paths.values(), combined):
        check_picture(path)
    generators = {}
    for kind in kinds:
        # The settings' own kind is taken as it stands, so that what does not fit is said.
        others = {} if kind == masking.type else {"type": kind, "allow_target_overlap": True, "num_hierarchies": None}
        generators[kind] = create_mask_generator(
            masking.model_copy(update=others),
            image_size=image_size,
            patch_size=patch_size,
            num_levels=num_levels,
            context_tokens=context_tokens,
            seed=seed,
        )
    previews = []
    for kind, generator in generators.items():
        if isinstance(generator, HierarchicalMaskGenerator):
            masks = generator(max(batch, count), step=0)
            generator.visualize_hierarchical_masks(masks, count=count, save_path=paths[kind])
            generator.visualize_combined_view(masks, count=count, save_path=combined)
            statistics = generator.get_hierarchical_statistics(masks)
            previews.append(Preview(kind, (paths[kind], combined), statistics))
        else:
            context, targets = generator(max(batch, count), step=0)
            generator.visualize_masks(context, targets, count=count, save_path=paths[kind])
            statistics = {"all levels": generator.get_mask_statistics(context, targets)}
            previews.append(Preview(kind, (paths[kind],), statistics))
    return previews


def _beside(out: Path, name: str) -> Path:
    return out.with_name(f"{out.stem}-{name}{out.suffix}")
