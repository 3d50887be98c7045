"""Everything random that a step needs, drawn before it: views, masks, seen tokens, directions.

All of it is a function of (seed, number of the part of a batch), so an interrupted run goes on exactly, and what
remains of the step is a pure function of tensors that can be compiled. Parts on different ranks have different numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hjepa_eval.datasets.randomness import seeded_generator
from hjepa_eval.datasets.transform import Transform
from hjepa_pretrain.config.geometry import Geometry
from hjepa_pretrain.config.schedules import context_count
from hjepa_pretrain.config.settings import PretrainSettings
from hjepa_pretrain.data.crops import cut_crops
from hjepa_pretrain.data.views import Views, make_views, random_tokens
from hjepa_pretrain.masks import Masks, create_mask_generator
from hjepa_pretrain.models import HJEPA
from hjepa_pretrain.objectives.objective import active_objectives
from hjepa_pretrain.objectives.sigreg import sigreg_directions


@dataclass(frozen=True)
class StepInputs:
    """What a step computes with.

    Attributes:
        views: of the images.
        masks: context and targets of the context view.
        other_context: int64 `[V - 1, B, K]`, the seen tokens of the other views; None without other views.
        directions: `[P, slices]` for SIGReg, or None.
    """

    views: Views
    masks: Masks
    other_context: Tensor | None
    directions: Tensor | None


@dataclass(frozen=True)
class CropInputs:
    """What a step on small crops alone computes with.

    Attributes:
        crops: normalised, `[V, B, 3, S, S]`.
        places: `[V, B, 3]`, see `cut_crops`.
        directions: as in `StepInputs`.
    """

    crops: Tensor
    places: Tensor
    directions: Tensor | None


class StepInputMaker:
    """Draws the inputs of a run's steps."""

    def __init__(self, settings: PretrainSettings, geometry: Geometry, transform: Transform) -> None:
        """Prepare the mask generator.

        Raises:
            ConfigError: the masks do not fit the grid.
        """
        self.settings, self.geometry, self.transform = settings, geometry, transform
        masking = settings.masking
        self.masks = create_mask_generator(
            masking,
            image_size=geometry.image_size,
            patch_size=geometry.patch_size,
            num_levels=settings.model.num_hierarchies,
            context_tokens=geometry.most_context_tokens(masking),
            seed=settings.train.seed,
        )

    def __call__(
        self, images: Tensor, model: HJEPA, *, number: int, progress: float, shared: int | None = None
    ) -> StepInputs | CropInputs:
        """Return the inputs for uint8 images `[B, 3, H, H]`.

        Args:
            images: on the device.
            model: asked what it attends to when masks follow saliency.
            number: of this part of a batch, which no other part has, in no step and on no rank.
            progress: share of the training that is done, for mask ratios that change.
            shared: the number that the parts of all ranks have together, for what must be the same on all of them;
                `number` when there is one rank.
        """
        seed, masking, device = self.settings.train.seed, self.settings.masking, images.device
        directions = self._directions(images.device, number if shared is None else shared)
        if self.settings.data.augmentation == "crops":
            crops = cut_crops(images, self.settings.data, self.transform, seed=seed, number=number)
            return CropInputs(*crops, directions)
        views = make_views(images, self.settings.data, self.transform, seed=seed, number=number)
        context_tokens = context_count(masking, self.geometry.num_patches, progress)
        masks = self.masks.sample(
            len(images),
            device,
            step=number,
            context_tokens=context_tokens,
            target_tokens=self.geometry.target_tokens(masking, context_tokens),
            saliency=model.target_encoder.saliency(views.target) if masking.saliency else None,
        )
        other_context = None
        if views.others is not None:
            generator = seeded_generator(seed, number, "second view", device)
            patches, count = self.geometry.num_patches, context_tokens
            other_context = random_tokens(len(views.others), len(images), patches, count, generator=generator)
        return StepInputs(views, masks, other_context, directions)

    def _directions(self, device: torch.device, number: int) -> Tensor | None:
        """Return what objectives with directions look along in the part of a batch with a `number`."""
        whole = self.settings.train.whole_image
        if not any("directions" in objective.needs for objective in active_objectives(whole)):
            return None
        generator = seeded_generator(self.settings.train.seed, number, "sigreg", device)
        return sigreg_directions(whole.out_dim, whole.sigreg_slices, generator=generator)
