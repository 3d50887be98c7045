from __future__ import annotations

import json
from typing import Any

import pytest
from hjepa_pretrain.config.settings import DiagnosticsSettings
from hjepa_pretrain.diagnostics.alarms import AlarmError, Alarms
from hjepa_pretrain.diagnostics.progress import ties_text

from hjepa_eval.errors import TrainingError


def diagnosis(**changes: Any) -> dict[str, Any]:
    return {
        "images": 5000,
        "std": [0.3, 0.2],
        "mean_energy": [0.7, 0.7],
        "rankme": [90.0, 80.0],
        "knn": [0.3, 0.4],
        **changes,
    }


def alarms(**settings: Any) -> Alarms:
    return Alarms(DiagnosticsSettings(**settings), [192, 192])


def test_alarm__fires_on_numbers_that_are_not_finite() -> None:
    with pytest.raises(TrainingError, match=r"step 5: rankme of level 1 is nan.*lower train\.lr"):
        alarms().check(5, 0.1, {"loss": 1.0}, diagnosis(rankme=[90.0, float("nan")]))


def test_alarm__names_the_level_whose_deviation_is_too_small() -> None:
    alarms(smallest_std=0).check(5, 0.1, {"loss": 1.0}, diagnosis(std=[0.3, 0.0]))
    with pytest.raises(TrainingError, match=r"step 5: level 1 has collapsed, its features deviate by 0\.0005"):
        alarms().check(5, 0.1, {"loss": 1.0}, diagnosis(std=[0.3, 0.0005]))


def test_alarm__names_the_level_whose_energy_is_nearly_all_mean() -> None:
    near = diagnosis(mean_energy=[0.98, 0.9995])
    alarms(largest_mean_energy=1).check(5, 0.1, {"loss": 1.0}, near)
    with pytest.raises(TrainingError, match=r"step 5: level 1 says nearly the same of every image, 0\.9995 of its"):
        alarms().check(5, 0.1, {"loss": 1.0}, near)


def test_alarm__on_rank_knows_that_few_images_show_few_directions() -> None:
    low = diagnosis(rankme=[90.0, 12.0])
    alarms().check(5, 0.1, {"loss": 1.0}, low)
    with pytest.raises(TrainingError, match=r"level 1 uses few directions, RankMe 12\.0 of 192"):
        alarms(smallest_rank=0.1).check(5, 0.1, {"loss": 1.0}, low)
    alarms(smallest_rank=0.1).check(5, 0.1, {"loss": 1.0}, {**low, "images": 100})


@pytest.mark.parametrize(
    ("losses", "ranks", "fires"),
    [
        ({"loss": 0.8, "level_0": 0.5, "level_1": 0.2}, [90.0, 30.0], True),
        ({"loss": 0.8, "level_0": 0.5, "level_1": 0.2}, [90.0, 70.0], False),
        ({"loss": 0.8, "level_0": 0.2, "level_1": 0.5}, [90.0, 30.0], False),
        ({"loss": 9.0, "level_0": 3.0, "level_1": 6.0}, [90.0, 30.0], False),
    ],
    ids=["loss and rank of one level fall", "loss alone", "of unlike levels", "the loss rises"],
)
def test_alarm__of_partial_collapse_needs_loss_and_rank_of_one_level(
    losses: dict[str, float], ranks: list[float], fires: bool
) -> None:
    watch = alarms()
    watch.check(100, 0.1, {"loss": 1.0, "level_0": 0.5, "level_1": 0.5}, diagnosis())
    if not fires:
        watch.check(200, 0.2, losses, diagnosis(rankme=ranks))
        return
    with pytest.raises(TrainingError, match=r"step 200: level 1 collapsed partly.* 0\.5 to 0\.2 .* 80\.0 to 30\.0"):
        watch.check(200, 0.2, losses, diagnosis(rankme=ranks))


def test_alarm__of_partial_collapse_takes_the_whole_loss_without_level_losses_and_can_be_off() -> None:
    for settings in ({}, {"rank_drop": 0.0}):
        watch = alarms(**settings, smallest_rank=0.0)
        watch.check(100, 0.1, {"loss": 1.0}, diagnosis())
        if settings:
            watch.check(200, 0.2, {"loss": 0.1}, diagnosis(rankme=[1.0, 1.0]))
            continue
        with pytest.raises(TrainingError, match="level 0 collapsed partly"):
            watch.check(200, 0.2, {"loss": 0.1}, diagnosis(rankme=[1.0, 1.0]))


def test_milestone__is_due_by_its_progress_and_met_by_the_best_so_far() -> None:
    watch = alarms(milestones=((0.5, 0.45),))
    watch.check(100, 0.4, {}, diagnosis(knn=[0.3, 0.4]))
    with pytest.raises(TrainingError, match=r"step 200: the best kNN so far is 0\.4000 .*0\.45 was due at 50%"):
        watch.check(200, 0.5, {}, diagnosis(knn=[0.3, 0.39]))
    watch = alarms(milestones=((0.5, 0.45),))
    watch.check(100, 0.4, {}, diagnosis(knn=[0.3, 0.5]))
    watch.check(200, 0.5, {}, diagnosis(knn=[0.3, 0.39]))


def test_milestone__cannot_be_met_without_labels() -> None:
    with pytest.raises(TrainingError, match="no kNN is measured"):
        alarms(milestones=((0.5, 0.45),)).check(1, 0.6, {}, diagnosis(knn=[None, None]))


def test_best__is_that_of_the_best_level_and_levels_keep_their_own() -> None:
    watch = alarms()
    assert watch.best_so_far is None
    seen = []
    # The third equals the best so far: of equal ones the later stays.
    for step, scores in ((1, [0.3, 0.2]), (2, [0.25, 0.35]), (3, [0.32, 0.35]), (4, [0.36, 0.1])):
        watch.check(step, 0.1, {}, diagnosis(knn=scores))
        seen.append(watch.improved)
    assert seen == [True, True, True, True]
    assert watch.best_so_far == {"knn": 0.36, "step": 4, "level": 0, "per_level": [0.36, 0.35]}
    watch.check(5, 0.1, {}, {})
    assert not watch.improved
    watch.check(6, 0.1, {}, diagnosis(knn=[0.3, 0.3]))
    assert not watch.improved


def test_best__names_what_its_images_cannot_tell_from_it() -> None:
    watch = alarms()
    measured = ((1, [0.5, 0.6]), (2, [0.79, 0.6]), (3, [0.78, 0.8]), (4, [0.2, None]))
    for step, scores in measured:
        watch.check(step, 0.1, {}, {**diagnosis(knn=scores), "knn_images": 100})
    best = watch.best_so_far
    assert best is not None
    # Wilson's interval of 80 of 100.
    assert best["interval"] == pytest.approx([0.711170, 0.866633], abs=1e-5)
    assert (best["step"], best["level"], best["tied_levels"], best["tied_steps"]) == (3, 1, [0], [2])
    assert ties_text(best) == "; tied with level 0, 1 other measurement"
    again = alarms()
    again.restore(json.loads(json.dumps(watch.state())))
    assert again.best_so_far == best
    assert ties_text({**best, "tied_levels": [], "tied_steps": []}) == ""


def test_patience__counts_measurements_without_a_better_one_and_says_why() -> None:
    watch = alarms(patience=2)
    for step, score in ((1, 0.3), (2, 0.2), (3, 0.31), (4, 0.3)):
        watch.check(step, 0.1, {}, diagnosis(knn=[0.1, score]))
        assert watch.should_stop is None
    watch.check(5, 0.1, {}, diagnosis(knn=[0.1, 0.30]))
    assert watch.should_stop == ("stopped early: no better kNN in 2 measurements; the best is 0.3100, level 1, step 3")


def test_alarms__go_on_from_their_state_as_if_never_left() -> None:
    measured = [
        (1, {"loss": 1.0, "level_0": 0.1 + 0.2, "level_1": 0.5}, diagnosis()),
        (2, {"loss": 0.9, "level_0": 0.3, "level_1": 0.5}, diagnosis(knn=[0.1, 0.2])),
        (3, {"loss": 0.9, "level_0": 0.3, "level_1": 0.4}, diagnosis(knn=[0.1, 1 / 3])),
    ]
    whole, parts = alarms(patience=3), alarms(patience=3)
    for one in measured:
        whole.check(one[0], 0.1, *one[1:])
        fresh = alarms(patience=3)
        fresh.restore(json.loads(json.dumps(parts.state())))
        parts = fresh
        parts.check(one[0], 0.1, *one[1:])
        assert parts.state() == whole.state()
        assert parts.improved == whole.improved
    with pytest.raises(TrainingError, match="level 1 collapsed partly"):
        parts.check(4, 0.1, {"level_0": 0.3, "level_1": 0.1}, diagnosis(rankme=[90.0, 10.0]))


def creeping(watch: Alarms, ranks: list[float], losses: list[float]) -> list[str]:
    """Measure once per rank of level 1; return what was warned of."""
    said = []
    for step, (rank, loss) in enumerate(zip(ranks, losses, strict=True), start=1):
        values = {"loss": 1.0, "level_0": 1.0, "level_1": loss}
        watch.check(10 * step, 0.1 * step, values, diagnosis(rankme=[90.0, rank], knn=[0.3, 0.3]))
        said += watch.warnings
    return said


def test_alarm__a_rank_that_creeps_down_is_warned_of_once_and_stopped_when_the_loss_fell_too() -> None:
    ranks, losses = [19.6, 13.1, 9.1, 7.1, 5.5, 4.3], [2.8, 1.9, 1.2, 0.8, 0.5, 0.3]
    said: list[str] = []
    watch = alarms(smallest_rank=0)
    with pytest.raises(
        AlarmError, match=r"step 60: level 1 collapsed bit by bit, its RankMe fell from 19\.6 to 4\.3 .*10"
    ):
        said += creeping(watch, ranks, losses)
    assert len(creeping(alarms(smallest_rank=0), ranks[:5], losses[:5])) == 1
    # Without an easier task it is said, and nothing stops; nor without a limit.
    warned = creeping(alarms(smallest_rank=0), ranks, [2.8] * 6)
    assert len(warned) == 1
    assert "step 30: level 1 may be collapsing, its RankMe fell from 19.6 to 9.1 since step 10" in warned[0]
    assert len(creeping(alarms(smallest_rank=0, rank_drop=0), ranks, losses)) == 1


def test_alarm__the_untrained_encoder_is_what_the_first_measurement_is_compared_with() -> None:
    watch = alarms()
    watch.begin([90.0, 60.0])
    said = creeping(watch, [20.0, 15.0], [2.8, 0.1])
    assert len(said) == 1
    assert "since before the first step" in said[0]


def test_alarm__what_creeps_is_known_to_a_resumed_run() -> None:
    ranks, losses = [19.6, 13.1, 9.1], [2.8, 1.9, 1.2]
    before, after = alarms(smallest_rank=0), alarms(smallest_rank=0)
    creeping(before, ranks, losses)
    after.restore(json.loads(json.dumps(before.state())))
    assert after.state() == before.state()
    assert creeping(after, [9.0], [1.2]) == []
