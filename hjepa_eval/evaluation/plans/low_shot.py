"""Low-shot: what each level allows with few labels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from hjepa_eval.config import Settings
from hjepa_eval.evaluation.probe import Plan, Probe
from hjepa_eval.evaluation.settings import PROBE as GROUP
from hjepa_eval.evaluation.settings import Folder, Fractions, Numbers, option
from hjepa_eval.results.headings import HEADINGS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hjepa_eval.datasets.subsets.lists import NameList
    from hjepa_eval.evaluation.rows import LevelRow
    from hjepa_eval.metrics.paired import Outcomes

    # What is drawn, as a heading, and the rows of train of each draw.
    Subsets = tuple[str, list[NDArray[np.int64]]]

DEFAULT_FRACTIONS = (0.01, 0.1)


class LowShotSettings(Settings):
    """Few labelled images."""

    low_shot_protocol: str = option(
        "logreg-lowshot",
        "logreg-lowshot, dino-lowshot, msn-lowshot, knn-lowshot or ridge-lowshot",
        group=GROUP,
        alias="protocol",
    )
    fraction: Fractions = option(
        (), "shares of each class's train labels, repeatable; 0.01,0.1 when no size is given", group=GROUP
    )
    per_class: Numbers = option((), "labelled images of every class, repeatable", group=GROUP)
    image_list: Folder | None = option(
        None, "text file with one image file name a line, such as SimCLR's 1percent.txt", group=GROUP, alias="list"
    )
    draws: int = option(5, "random subsets of each size; the result is their mean", group=GROUP, ge=1)


def _fractions(settings: LowShotSettings) -> tuple[float, ...]:
    """Return the fractions to draw; the usual two when no size of any kind was asked for."""
    asked = settings.fraction or settings.per_class or settings.image_list
    return settings.fraction if asked else DEFAULT_FRACTIONS


def _subsets(row: LevelRow, settings: LowShotSettings, listed: NameList | None, seed: int) -> Iterator[Subsets]:
    """Yield every size asked for with its draws; an official list is one draw."""
    from hjepa_eval.probes.few_labels.low_shot import draw_subset

    labels = row.stream("train").labels
    sizes: list[tuple[str, float | None, int | None]] = [
        (f"{100 * fraction:g} % labels", fraction, None) for fraction in _fractions(settings)
    ]
    sizes += [(f"{count} per class", None, count) for count in settings.per_class]
    if listed is not None:
        yield _listed(row, settings, listed)
    for name, fraction, count in sizes:
        draws = [
            draw_subset(
                labels,
                fraction=fraction,
                per_class=count,
                num_classes=len(row.class_names),
                seed=seed * settings.draws + draw,
                class_names=row.class_names,
            )
            for draw in range(settings.draws)
        ]
        yield name, draws


def _listed(row: LevelRow, settings: LowShotSettings, listed: NameList) -> Subsets:
    """Return the rows of train that an official list names.

    Raises:
        DataError: the list does not fit the images, or some of them were not extracted.
    """
    import numpy as np

    from hjepa_eval.datasets.subsets.lists import indices_of
    from hjepa_eval.errors import DataError

    wanted = indices_of(row.features.images["train"], listed.names)
    stored = row.index("train")
    found = np.isin(wanted, stored)
    if not found.all():
        raise DataError(
            f"{int((~found).sum())} of the {len(wanted)} images in {settings.image_list} are not among the "
            f"{len(stored)} extracted ones; leave out --max-samples, and mend images that were skipped"
        )
    return f"{listed.file} {listed.sha256[:8]}", [np.searchsorted(stored, wanted)]


def plan_low_shot(settings: LowShotSettings) -> Plan:
    """Return the low-shot probe as the settings ask for it, the same draws for every level and model."""
    import numpy as np

    from hjepa_eval.datasets.subsets.lists import read_image_list
    from hjepa_eval.evaluation.findings import Finding, make_score, mean_score
    from hjepa_eval.probes.few_labels.low_shot import low_shot
    from hjepa_eval.probes.few_labels.low_shot_protocols import low_shot_protocol

    protocol = low_shot_protocol(settings.low_shot_protocol)
    listed = None if settings.image_list is None else read_image_list(settings.image_list)
    drawn: dict[int, list[Subsets]] = {}

    def run(row: LevelRow, seed: int, choosing: bool) -> Finding:
        train, test = row.samples("train"), row.samples("test")
        scores = []
        notes = ["no level is chosen: few labels leave none to choose by"] if choosing else []
        outcomes: dict[str, Outcomes] = {}
        predictions: dict[str, NDArray[np.int64]] = {}
        chosen: dict[str, Any] = {}
        if seed not in drawn:
            drawn[seed] = list(_subsets(row, settings, listed, seed))
        for name, draws in drawn[seed]:
            found = low_shot(
                train,
                test,
                num_classes=len(row.class_names),
                subsets=draws,
                seed=seed,
                class_names=row.class_names,
                **protocol.arguments(),
            )
            each = [make_score("top1", one, headline=True, labels=name) for one in found.scores]
            right = [guess == test.labels for guess in found.predictions]
            score = mean_score(each, over="draws", outcomes=right)
            scores.append(score)
            outcomes[score.key] = np.mean(right, axis=0) if len(right) > 1 else right[0]
            predictions |= {f"{score.key} draw={draw}": guess for draw, guess in enumerate(found.predictions)}
            chosen[name] = {"train images": list(found.sizes), found.parameter: list(found.chosen)}
            notes.append(f"{name}: {', '.join(str(size) for size in dict.fromkeys(found.sizes))} train images a draw")
            notes += [f"{name}: {note}" for note in found.notes]
        return Finding(tuple(scores), outcomes, predictions, chosen=chosen, notes=tuple(dict.fromkeys(notes)))

    parameters = {
        "fraction": list(_fractions(settings)),
        "per_class": list(settings.per_class),
        "list": f"{listed.file} {listed.sha256}" if listed else None,
        "draws": settings.draws,
    }
    # 2: logistic regression of two classes has scikit-learn's penalty, ridge tells tiny features apart.
    version = 1 if protocol.classifier == "knn" else 2
    return Plan(protocol.name, parameters, run, protocol.deviations, version=version, moves=False)


PROBE = Probe(
    "lowshot",
    HEADINGS["lowshot"],
    "A classifier sees a part of the train labels (1 % and 10 % when nothing is said) "
    "and is tested on all of test; several draws, the same for every level.",
    settings=LowShotSettings,
    plan=plan_low_shot,
)
