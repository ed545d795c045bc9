from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flanlab.tasks.clusters import Cluster, related_clusters
from flanlab.tasks.holdout import ON_ITS_ROWS, HoldOut, HoldOutSplit, lineage, seen_reason
from flanlab.tasks.schema import Task
from tests.task_files import refusal, task_in_memory

NLI, PARAPHRASE, SENTIMENT = Cluster.NATURAL_LANGUAGE_INFERENCE, Cluster.PARAPHRASE, Cluster.SENTIMENT
READING, COMMONSENSE, BOTH = (
    Cluster.READING_COMPREHENSION,
    Cluster.COMMONSENSE,
    Cluster.READING_COMPREHENSION_WITH_COMMONSENSE,
)
_BASE = task_in_memory()


def task(name: str, *clusters: Cluster, derived_from: tuple[str, ...] = ()) -> Task:
    return _BASE.model_copy(
        update={"name": name, "cluster": list(clusters), "derived_from": dict.fromkeys(derived_from, "made up")}
    )


def stamp(split: HoldOutSplit) -> dict[str, Any]:
    return {
        "tasks": {
            task.name: {"clusters": [c.value for c in task.clusters], "lineage": sorted(split.lineage[task.name])}
            for task in split.train
        },
        "lineage": {task.name: sorted(split.lineage[task.name]) for task in split.test},
    }


def names(tasks: tuple[Task, ...]) -> list[str]:
    return [task.name for task in tasks]


@st.composite
def task_sets(draw: st.DrawFn) -> list[Task]:
    known = [f"task{number}" for number in range(draw(st.integers(1, 12)))]
    ancestors = st.lists(st.sampled_from([*known, "glue", "squad", "news"]), max_size=2, unique=True)
    clusters = st.lists(st.sampled_from(list(Cluster)), min_size=1, max_size=2, unique=True)
    return [task(name, *draw(clusters), derived_from=tuple(draw(ancestors))) for name in known]


held_out = st.lists(st.sampled_from(list(Cluster)), min_size=1, max_size=3, unique=True).map(tuple)


@given(task_sets(), held_out)
def test_no_cluster_stands_on_both_sides_nor_one_related_to_it(tasks: list[Task], clusters: tuple[Cluster, ...]) -> None:
    split = HoldOut(clusters=clusters, overlap="remove").split(tasks)
    trained = {cluster for task in split.train for cluster in task.clusters}
    for tested in {cluster for task in split.test for cluster in task.clusters} | set(clusters):
        assert not trained & related_clusters(tested)


@given(task_sets(), held_out)
def test_every_task_is_accounted_for_once(tasks: list[Task], clusters: tuple[Cluster, ...]) -> None:
    split = HoldOut(clusters=clusters, overlap="remove").split(tasks)
    assert set(names(split.train)) | set(split.left_out) == {task.name for task in tasks}
    assert not set(names(split.train)) & set(split.left_out)
    assert names(split.test) == [task.name for task in tasks if set(task.clusters) & set(clusters)]
    assert set(names(split.test)) <= set(split.left_out)


@given(task_sets())
def test_each_cluster_is_held_out_exactly_by_its_own_hold_out(tasks: list[Task]) -> None:
    tested: dict[str, set[Cluster]] = {task.name: set() for task in tasks}
    for cluster in Cluster:
        for name in names(HoldOut(clusters=(cluster,), overlap="remove").split(tasks).test):
            tested[name].add(cluster)
    assert tested == {task.name: set(task.clusters) for task in tasks}


@given(task_sets(), held_out)
def test_what_tests_under_remove_is_unseen_by_the_model_it_trains(tasks: list[Task], clusters: tuple[Cluster, ...]) -> None:
    split = HoldOut(clusters=clusters, overlap="remove").split(tasks)
    assert [seen_reason(task, stamp(split)) for task in split.test] == [None] * len(split.test)


@given(task_sets(), held_out)
def test_what_allow_lets_through_makes_exactly_the_tasks_concerned_seen(
    tasks: list[Task], clusters: tuple[Cluster, ...]
) -> None:
    split = HoldOut(clusters=clusters, overlap="allow").split(tasks)
    ancestors = lineage(tasks)
    for task in split.test:
        shares_source = any(ancestors[task.name] & ancestors[name] for name in names(split.train))
        assert (seen_reason(task, stamp(split)) is not None) == shares_source


@given(task_sets(), held_out)
def test_the_three_policies_differ_in_the_conflicts_alone(tasks: list[Task], clusters: tuple[Cluster, ...]) -> None:
    removed = HoldOut(clusters=clusters, overlap="remove").split(tasks)
    allowed = HoldOut(clusters=clusters, overlap="allow").split(tasks)
    assert set(names(allowed.train)) - set(names(removed.train)) == set(allowed.allowed)
    assert names(allowed.test) == names(removed.test)
    assert set(removed.left_out) - set(allowed.left_out) == set(allowed.allowed)
    if allowed.allowed:
        error = refusal(lambda: HoldOut(clusters=clusters).split(tasks))
        for name, reason in allowed.allowed.items():
            assert f"{name}: {reason}" in error.message
    else:
        assert HoldOut(clusters=clusters).split(tasks).train == removed.train


@given(task_sets())
def test_exclusion_is_symmetric(tasks: list[Task]) -> None:
    for pair in itertools.combinations(tasks, 2):
        excluded = [len(HoldOut(clusters=tested.clusters, overlap="remove").split(pair).train) == 0 for tested in pair]
        assert excluded[0] == excluded[1]


@pytest.mark.parametrize("cluster", Cluster)
def test_relation_between_clusters_is_symmetric_and_holds_the_cluster(cluster: Cluster) -> None:
    assert cluster in related_clusters(cluster)
    assert all(cluster in related_clusters(other) for other in related_clusters(cluster))


def test_the_papers_two_exceptions() -> None:
    assert related_clusters(NLI) == {NLI, PARAPHRASE}
    assert related_clusters(BOTH) == {BOTH, READING, COMMONSENSE}
    assert related_clusters(READING) == {READING, BOTH}
    assert related_clusters(SENTIMENT) == {SENTIMENT}


def test_left_out_names_the_reason() -> None:
    tasks = [task("rte", NLI), task("mrpc", PARAPHRASE), task("sst", SENTIMENT)]
    split = HoldOut(clusters=(NLI,)).split(tasks)
    assert names(split.train) == ["sst"]
    assert split.left_out == {"rte": "held out", "mrpc": "its cluster paraphrase is too close to the held-out clusters"}


def test_a_task_of_two_clusters_takes_both_out_of_training() -> None:
    tasks = [task("record", READING, COMMONSENSE), task("copa", COMMONSENSE), task("sst", SENTIMENT)]
    split = HoldOut(clusters=(READING,)).split(tasks)
    assert names(split.test) == ["record"]
    assert names(split.train) == ["sst"]
    assert seen_reason(tasks[0], stamp(split)) is None


def test_a_subtask_is_trained_on_where_it_took_part_itself() -> None:
    whole = task_in_memory(name="mine", source=None, subtasks={"easy": _BASE.source, "hard": _BASE.source})

    def reason(trained: Task, subtask: str) -> str | None:
        facts = {"clusters": trained.clusters, "lineage": [trained.name], "subtasks": [*trained.subtasks]}
        return seen_reason(whole.subtask(subtask), {"tasks": {trained.name: facts}})

    assert reason(whole, "hard") == ON_ITS_ROWS
    assert reason(whole.subtask("easy"), "easy") == ON_ITS_ROWS
    assert reason(whole.without_subtask("hard"), "easy") == ON_ITS_ROWS
    assert reason(whole.without_subtask("hard"), "hard") == "the model was trained on mine, of the cluster sentiment"


def test_lineage_goes_through_any_number_of_steps_and_round_in_circles() -> None:
    tasks = [
        task("a", SENTIMENT, derived_from=("b",)),
        task("b", SENTIMENT, derived_from=("c", "wikipedia")),
        task("c", SENTIMENT, derived_from=("a",)),
        task("d", SENTIMENT),
    ]
    assert lineage(tasks)["a"] == {"a", "b", "c", "wikipedia"}
    assert lineage(tasks)["d"] == {"d"}


@pytest.mark.parametrize("middle_known", [True, False])
def test_chain_of_derivations_is_a_conflict_and_is_seen(middle_known: bool) -> None:
    # `middle` neither trains nor tests: only the whole collection tells that `far` goes back to squad.
    far = task("far", NLI, derived_from=("middle",))
    near = task("near", SENTIMENT, derived_from=("squad",))
    tasks = [far, near, *([task("middle", PARAPHRASE, derived_from=("squad",))] if middle_known else [])]
    if not middle_known:
        assert names(HoldOut(clusters=(NLI,)).split(tasks).train) == ["near"]
        return
    error = refusal(lambda: HoldOut(clusters=(NLI,)).split(tasks))
    assert "near: shares squad with the held-out far" in error.message
    assert "remove" in error.hint
    split = HoldOut(clusters=(NLI,), overlap="allow").split(tasks)
    assert split.allowed == {"near": "shares squad with the held-out far"}
    assert seen_reason(far, stamp(split)) == "the model was trained on near, which shares squad with it"


def test_a_step_that_takes_no_part_is_gone_through_all_the_same() -> None:
    mine = task("mine", SENTIMENT, derived_from=("middle",))
    middle = task("middle", PARAPHRASE, derived_from=("squad",))
    tasks = [mine, task("squad", READING), task("other", SENTIMENT)]
    split = HoldOut(clusters=(READING,), overlap="remove").split(tasks, known=[middle])
    assert names(split.train) == ["other"]
    assert names(split.tasks) == ["mine", "squad", "other"]
    trained = HoldOut(clusters=()).split([task("squad", READING)])
    assert seen_reason(mine, stamp(trained)) is None
    ancestors = lineage([mine, middle])["mine"]
    assert seen_reason(mine, stamp(trained), ancestors) == "the model was trained on squad, which shares squad with it"


def test_a_task_derived_from_a_held_out_one_overlaps_with_it_and_the_other_way_round() -> None:
    tasks = [task("squad", READING), task("qnli", NLI, derived_from=("squad",))]
    for cluster in (READING, NLI):
        assert HoldOut(clusters=(cluster,), overlap="remove").split(tasks).train == ()
        assert "share" in refusal(lambda cluster=cluster: HoldOut(clusters=(cluster,)).split(tasks)).message


def test_tasks_asked_for_by_name_fall_under_the_policy() -> None:
    tasks = [task("rte", NLI), task("mrpc", PARAPHRASE), task("sst", SENTIMENT)]
    assert "mrpc" in refusal(lambda: HoldOut(clusters=(NLI,)).split(tasks, named=["mrpc"])).message
    assert names(HoldOut(clusters=(NLI,), overlap="remove").split(tasks, named=["mrpc"]).train) == ["sst"]
    allowed = HoldOut(clusters=(NLI,), overlap="allow").split(tasks, named=["mrpc"])
    assert names(allowed.train) == ["mrpc", "sst"]
    assert list(allowed.allowed) == ["mrpc"]
    assert seen_reason(tasks[0], stamp(allowed)) == "the model was trained on mrpc, of the cluster paraphrase"


def test_seen_reason_tells_the_task_itself_first() -> None:
    split = HoldOut(clusters=()).split([task("rte", NLI)])
    assert seen_reason(task("rte", NLI), stamp(split)) == "the model was trained on its train rows"
    assert seen_reason(task("cb", NLI), stamp(split)) == (
        "the model was trained on rte, of the cluster natural_language_inference"
    )
    assert seen_reason(task("sst", SENTIMENT), stamp(split)) is None


def test_supervised_trains_on_a_held_out_task_alone_and_is_seen() -> None:
    tasks = [task("rte", NLI), task("cb", NLI), task("sst2", SENTIMENT)]
    split = HoldOut(clusters=(NLI,), overlap="remove", supervised=("rte",)).split(tasks)
    assert (names(split.train), names(split.test)) == (["rte"], ["rte", "cb"])
    assert set(split.left_out) == {"cb", "sst2"}
    assert set(split.allowed) == {"rte"}
    assert seen_reason(tasks[0], stamp(split)) == "the model was trained on its train rows"


@pytest.mark.parametrize("name", ["sst2", "no_such_task"])
def test_supervised_takes_held_out_tasks_only(name: str) -> None:
    tasks = [task("rte", NLI), task("sst2", SENTIMENT)]
    message = refusal(lambda: HoldOut(clusters=(NLI,), supervised=(name,)).split(tasks)).message
    assert name in message
    assert "not a held-out task" in message
