"""Which settings nothing reads in which mode: to accept one would be a promise that nobody keeps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import ValidationError

from hjepa_pretrain.config.settings import MaskingSettings, PredictorSettings, PretrainSettings


class Mode(NamedTuple):
    """A choice that leaves other settings unread.

    Attributes:
        name: the choice in words, such as `train.loss mse`.
        chosen: whether settings make it.
        unread: dotted keys that nothing reads then.
    """

    name: str
    chosen: Callable[[PretrainSettings], bool]
    unread: tuple[str, ...]


_MASKING = tuple(f"masking.{name}" for name in MaskingSettings.model_fields if name != "num_context_masks")

# Not listed: what `masking.type` leaves unread (`checks`); `train.parallel`, which the number of processes decides;
# `data.root`, of which `load_dataset` knows whether it is read.
MODES = (
    Mode("data.augmentation none", lambda s: s.data.augmentation == "none", ("data.crop_scale", "data.flip")),
    Mode(
        "data.augmentation without changes of colour",
        lambda s: s.data.augmentation in ("none", "light"),
        ("data.jitter", "data.gray"),
    ),
    Mode(
        "data.augmentation crops",
        lambda s: s.data.augmentation == "crops",
        ("data.crop_scale", "model.mask_mode", *_MASKING),
    ),
    Mode(
        "a data.augmentation other than crops",
        lambda s: s.data.augmentation != "crops",
        ("data.crops", "data.crop_size", "train.whole_image.levels"),
    ),
    Mode("data.local_views 0", lambda s: not s.data.local_views, ("data.local_scale",)),
    Mode(
        "train.predicted_share 0",
        lambda s: not s.train.predicted_share,
        (
            "train.loss",
            "train.loss_beta",
            "train.level_weights",
            "masking.target_tokens",
            "masking.cell_coverage",
            *(f"model.predictor.{name}" for name in PredictorSettings.model_fields),
        ),
    ),
    Mode(
        "a single level",
        lambda s: s.model.num_hierarchies == 1,
        ("model.predictor.order", "model.predictor.fpn", "masking.cell_coverage"),
    ),
    Mode(
        "an energy transformer",
        lambda s: s.model.encoder_type.startswith("energy"),
        ("model.layer_scale", "masking.saliency"),
    ),
    Mode(
        "a model.encoder_type that is no energy transformer",
        lambda s: not s.model.encoder_type.startswith("energy"),
        ("model.energy_step",),
    ),
    Mode("train.loss mse", lambda s: s.train.loss == "mse", ("train.loss_beta",)),
    Mode("train.schedule constant", lambda s: s.train.schedule == "constant", ("train.final_lr",)),
    Mode("a train.schedule other than cooldown", lambda s: s.train.schedule != "cooldown", ("train.cooldown",)),
    Mode(
        "no term on projections",
        lambda s: not s.train.whole_image.projected,
        ("train.whole_image.hidden_dim", "train.whole_image.out_dim"),
    ),
    Mode("no contrast", lambda s: not s.train.whole_image.contrast, ("train.whole_image.temperature",)),
    Mode("no coding_rate", lambda s: not s.train.whole_image.coding_rate, ("train.whole_image.coding_precision",)),
    Mode("train.optimizer adamw", lambda s: s.train.optimizer == "adamw", ("train.muon_lr", "train.muon_momentum")),
    Mode("no sigreg", lambda s: not s.train.whole_image.sigreg, ("train.whole_image.sigreg_slices",)),
    Mode(
        "diagnostics.bank 0",
        lambda s: not s.diagnostics.bank,
        tuple(
            f"diagnostics.{name}"
            for name in ("interval", "held_out", "smallest_std", "smallest_rank", "largest_mean_energy", "rank_drop")
        ),
    ),
)


def unread_settings(settings: PretrainSettings) -> list[str]:
    """Return what is set although nothing reads it, a sentence per mode; an empty list when all is read."""
    problems = []
    for mode in MODES:
        given = [key for key in mode.unread if _is_set(settings, key)] if mode.chosen(settings) else []
        if given:
            problems.append(f"with {mode.name} nothing reads {', '.join(given)}; leave out what nothing reads")
    return problems


def without_unread(written: Mapping[str, Any], given: Mapping[str, Any], assigned: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out of a file what only an assignment makes unread: who predicts nothing wants no preset's predictor.

    Args:
        written: what the file says.
        given: the same with all that was assigned on top.
        assigned: what the user says beside the file; of this nothing is left out.
    """
    try:
        before, after = PretrainSettings.model_validate(dict(written)), PretrainSettings.model_validate(dict(given))
    except ValidationError:  # Said elsewhere, with its source.
        return dict(written)
    modes = [mode for mode in MODES if mode.chosen(after) and not mode.chosen(before)]
    return _without_keys_of(modes, written, kept=assigned)


def as_recorded(written: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out of a run's settings what nothing read: earlier versions accepted it, and their runs go on."""
    try:
        settings = PretrainSettings.model_validate(dict(written))
    except ValidationError:  # Said elsewhere, with its source.
        return dict(written)
    return _without_keys_of([mode for mode in MODES if mode.chosen(settings)], written, kept={})


def _without_keys_of(modes: Sequence[Mode], written: Mapping[str, Any], *, kept: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested settings without what is unread in `modes`, but for what `kept` gives."""
    left: dict[str, Any] = dict(written)
    for key in {key for mode in modes for key in mode.unread}:
        if not _holds(kept, key.split(".")):
            left = _without(left, key.split("."))
    return left


def _holds(tree: Any, path: list[str]) -> bool:
    """Tell whether a nested mapping gives a value to a path of keys."""
    for part in path:
        if not isinstance(tree, Mapping) or part not in tree:
            return False
        tree = tree[part]
    return True


def _without(tree: Mapping[str, Any], path: list[str]) -> dict[str, Any]:
    """Return a nested mapping without a path of keys."""
    first, *rest = path
    inner = tree.get(first)
    if rest and isinstance(inner, Mapping):
        return {**tree, first: _without(inner, rest)}
    return {name: value for name, value in tree.items() if rest or name != first}


def _is_set(settings: PretrainSettings, key: str) -> bool:
    """Tell whether the setting at a dotted key has another value than its default."""
    *sections, name = key.split(".")
    section: Any = settings
    for part in sections:
        section = getattr(section, part)
    return bool(getattr(section, name) != type(section).model_fields[name].default)
