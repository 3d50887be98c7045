"""Attentive: learned queries look at the tokens of each level, and of all levels together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from hjepa_eval.config import Settings
from hjepa_eval.evaluation.probe import Plan, Probe
from hjepa_eval.evaluation.settings import PROBE as GROUP
from hjepa_eval.evaluation.settings import Shares, Strengths, option, token_images_option
from hjepa_eval.results.headings import HEADINGS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hjepa_eval.evaluation.findings import Finding
    from hjepa_eval.evaluation.rows import LevelRow
    from hjepa_eval.metrics.paired import Outcomes
    from hjepa_eval.probes.attentive.probe import AttentiveResult, Recipe, TokenSet
    from hjepa_eval.probes.dense.token_rows import TokenRows
    from hjepa_eval.results.records import Score

AttentiveProtocol = Literal["efficient-probing", "cross-attention", "attentive-block"]
_KINDS: dict[str, Any] = {"efficient-probing": "ep", "cross-attention": "cross", "attentive-block": "block"}
_DEVIATIONS = (
    "AdamW instead of LARS, tokens centred and scaled by one factor, no augmentation",
    "learning rate and weight decay are chosen on a held-out tenth of train, and no epoch is chosen, where papers take "
    "the epoch that is best on the images that they report: lower by design",
)


class AttentiveSettings(Settings):
    """A classifier with attention over frozen tokens."""

    attentive_protocol: AttentiveProtocol = option(
        "efficient-probing",
        "efficient-probing, cross-attention (a single query, as V-JEPA's) or attentive-block (with residual and MLP)",
        group=GROUP,
        alias="protocol",
    )
    token_images: int | None = token_images_option()
    queries: int = option(32, "learned queries, or parts of the single one", group=GROUP, ge=1)
    lr: Strengths = option(
        (3e-4, 1e-3, 3e-3, 1e-2), "learning rates, repeatable; all heads are trained at once", group=GROUP
    )
    weight_decay: Shares = option((0.0, 0.1, 1.0), "weight decays, repeatable, each with each rate", group=GROUP)
    head_epochs: int = option(20, "passes over train; more where --head-steps asks for them", group=GROUP, ge=1)
    head_steps: int = option(400, "steps of the heads, at least", group=GROUP, ge=1)
    head_batch: int = option(256, "images per step of the heads", group=GROUP, ge=2)
    with_cls: bool = option(False, "class tokens of the levels beside their cells, pooled and not", group=GROUP)


def plan_attentive(settings: AttentiveSettings) -> Plan:
    """Return the attentive probe as the settings ask for it."""
    from hjepa_eval.evaluation.models.tokens import TokenNeed
    from hjepa_eval.probes.attentive.probe import Recipe
    from hjepa_eval.probes.attentive.training import Schedule

    schedule = Schedule(settings.head_epochs, settings.head_batch, settings.head_steps)
    kind = _KINDS[settings.attentive_protocol]
    recipe = Recipe(kind, settings.queries, settings.lr, settings.weight_decay, schedule)
    return Plan(
        protocol=settings.attentive_protocol,
        parameters={
            "readout": "tokens and their mean" + (", with class tokens" if settings.with_cls else ""),
            "token_images": settings.token_images,
            "queries": settings.queries,
            "lr": list(settings.lr),
            "weight_decay": list(settings.weight_decay),
            "epochs": settings.head_epochs,
            "batch": settings.head_batch,
            "least_steps": settings.head_steps,
        },
        run=lambda row, seed, choosing: _run(row, seed, recipe, with_cls=settings.with_cls),
        deviations=_DEVIATIONS,
        rule="a stratified tenth of train, after training on the rest",
        may_be_left_out=True,
        tokens=TokenNeed(
            readouts=("tokens", "cls") if settings.with_cls else ("tokens",), images=settings.token_images
        ),
        joins=True,
        contrasts=True,
    )


def _run(row: LevelRow, seed: int, recipe: Recipe, *, with_cls: bool) -> Finding:
    """Return what heads make of one level, or of all: of its tokens, and of their mean alone."""
    from hjepa_eval.evaluation.findings import Finding, make_score
    from hjepa_eval.probes.attentive.probe import attentive_probe

    scores: list[Score] = []
    outcomes: dict[str, Outcomes] = {}
    predictions: dict[str, NDArray[np.int64]] = {}
    held: dict[str, float] = {}
    held_right: dict[str, Outcomes] = {}
    chosen: dict[str, Any] = {}
    notes: dict[str, None] = {}
    for reads in ("pooled", "tokens"):
        train, test = (_token_set(row, split, pooled=reads == "pooled", with_cls=with_cls) for split in _SPLITS)
        result = attentive_probe(
            train,
            test,
            num_classes=len(row.class_names),
            recipe=recipe,
            seed=seed,
            device=row.features.device,
        )
        score = make_score("top1", result.score, headline=True, reads=reads)
        scores.append(score)
        outcomes[score.key] = result.predictions == test.labels
        predictions[score.key] = result.predictions
        held[score.key], held_right[score.key] = float(result.held_right.mean()), result.held_right
        chosen[reads] = {"lr": result.rate, "weight_decay": result.decay, "held_out": result.tried, "loss": result.loss}
        notes |= dict.fromkeys(f"{reads}: {note}" for note in result.notes)
        if row.fused:
            masses = _masses(row, result, reads, with_cls=with_cls)
            scores += [make_score("attention", interval, **names) for names, interval, _ in masses]
            outcomes |= {f"attention reads={reads} level={names['level']}": share for names, _, share in masses}
    return Finding(
        scores=tuple(scores),
        outcomes=outcomes,
        predictions=predictions,
        held_out={} if row.fused else held,
        held_out_outcomes={} if row.fused else held_right,
        chosen=chosen,
        notes=tuple(notes),
    )


_SPLITS = ("train", "test")


def _token_set(row: LevelRow, split: str, *, pooled: bool, with_cls: bool) -> TokenSet:
    """Return the tokens of all levels of a row, or each level's mean; with class tokens as levels beside them."""
    from hjepa_eval.probes.attentive.probe import TokenSet
    from hjepa_eval.probes.dense.token_rows import TokenRows

    levels: list[TokenRows] = []
    for level in row.parts:
        extraction = row.of_tokens().features.splits[split]
        stored = extraction.store.level(level)
        tokens = TokenRows(extraction.store.stream(level, limit=extraction.limit), stored.grid[0] * stored.grid[1])
        levels.append(_pooled(tokens) if pooled else tokens)
        if with_cls:
            of_cls = row.of_tokens("cls").features.splits[split]
            levels.append(TokenRows(of_cls.store.stream(level, limit=of_cls.limit), 1))
    extraction = row.of_tokens().features.splits[split]
    return TokenSet(tuple(levels), extraction.store.labels(limit=extraction.limit))


def _pooled(tokens: TokenRows) -> TokenRows:
    """Return the mean of each image's tokens, in memory, as one token."""
    import numpy as np

    from hjepa_eval.probes.dense.token_rows import TokenRows
    from hjepa_eval.probes.search.bank import ArrayBank

    means = [block.mean(axis=1, dtype=np.float64).astype(np.float32) for block in tokens.images()]
    return TokenRows(ArrayBank(np.concatenate(means)), 1)


def _masses(
    row: LevelRow, result: AttentiveResult, reads: str, *, with_cls: bool
) -> list[tuple[dict[str, Any], Any, NDArray[np.float64]]]:
    """Return for each level its name, the mean share of attention with its interval over images, and each image's."""
    import numpy as np

    from hjepa_eval.metrics.intervals import bootstrap_interval

    shares = result.attention.astype(np.float64)
    if with_cls:
        shares = shares[:, 0::2] + shares[:, 1::2]
    return [
        ({"reads": reads, "level": level}, bootstrap_interval(shares[:, place], resamples=500), shares[:, place])
        for place, level in enumerate(row.parts)
    ]


PROBE = Probe(
    "attentive",
    HEADINGS["attentive"],
    "Heads with learned queries read the tokens of a level, and beside it their mean alone; the last row reads "
    "all levels. So the table tells what levels add from what tokens add. All rates and decays are trained at once, "
    "one is chosen on a held-out part of train, then all of train is fitted; test is touched once.",
    settings=AttentiveSettings,
    plan=plan_attentive,
)
