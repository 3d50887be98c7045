"""What a run's own settings hide of a few images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.encoders.kinds.run import read_run_config
from hjepa_eval.errors import ConfigError
from hjepa_eval.results.gallery import MaskExamples

if TYPE_CHECKING:
    from torch import Tensor

    from hjepa_pretrain.config.settings import PretrainSettings

NO_TOKENS = "This run predicts no tokens, so it has no masks."
WITHOUT_SALIENCY = "the run's masks prefer what its encoder attends to (masking.saliency); these are drawn without it"


def draw_mask_examples(run: Path, places: NDArray[np.int64]) -> tuple[MaskExamples | None, str]:
    """Return masks for the train images at `places` [E] as the run's settings draw them, and a word about them.

    The word says why there are none, or what a reader must know of them; it may be empty.

    Context are the tokens that the encoder sees, as many as in the beginning of the run. In training hierarchical masks
    hide of an image what one level asks for; here every image has a set per level. There are none for a run that
    predicted no tokens, or whose masks this version cannot draw.

    Raises:
        CheckpointError: the run's `config.json` cannot be read.
    """
    from hjepa_pretrain.checks import build_settings
    from hjepa_pretrain.config.unread import as_recorded

    try:
        settings = build_settings(as_recorded(read_run_config(run).get("settings", {})), str(run))
        if not settings.train.predicted_share:
            return None, NO_TOKENS
        drawn = _draw(settings, places)
    except ConfigError as error:
        return None, f"The masks of this run could not be drawn: {error}."
    return drawn, WITHOUT_SALIENCY if settings.masking.saliency else ""


def _draw(settings: PretrainSettings, places: NDArray[np.int64]) -> MaskExamples:
    """Return masks for the places [E] as settings draw them.

    Raises:
        ConfigError: such settings draw none.
    """
    from hjepa_pretrain.config.geometry import resolve_geometry
    from hjepa_pretrain.config.schedules import context_count
    from hjepa_pretrain.masks import create_mask_generator

    masking, geometry = settings.masking, resolve_geometry(settings)
    seen = context_count(masking, geometry.num_patches, 0.0)
    generator = create_mask_generator(
        masking,
        image_size=geometry.image_size,
        patch_size=geometry.patch_size,
        num_levels=settings.model.num_hierarchies,
        # With fewer, a generator of blocks takes nothing from them: what is seen is drawn by `sample`.
        context_tokens=seen if masking.type == "random" else 1,
        seed=settings.train.seed,
    )
    sets = settings.model.num_hierarchies if masking.type == "hierarchical" else 1
    # Image i is masked for level i modulo L, so every level has as many images as there are places.
    masks = generator.sample(
        len(places) * sets,
        step=0,
        context_tokens=seen,
        target_tokens=geometry.target_tokens(masking, seen),
    )
    blocks = [_blocks(generator(len(places), step=0), number) for number in range(sets)]
    context = np.zeros((len(places) * sets, geometry.num_patches), np.bool_)
    np.put_along_axis(context, masks.context.numpy(), True, axis=1)
    hidden = masks.target_flags.numpy()
    return MaskExamples(
        kind=masking.type,
        grid=(geometry.grid[0], geometry.grid[1]),
        index=places,
        context=np.stack([context[number::sets] for number in range(sets)]),
        targets=np.stack([blocks[number] & hidden[number::sets, None] for number in range(sets)]),
    )


def _blocks(drawn: tuple[Tensor, Tensor] | dict[str, dict[str, Tensor]], level: int) -> NDArray[np.bool_]:
    """Return the target blocks bool [E, M, tokens] that a generator drew, of hierarchical masks those of a level."""
    targets = drawn[f"level_{level}"]["targets"] if isinstance(drawn, dict) else drawn[1]
    return np.asarray(targets.numpy(), np.bool_)
