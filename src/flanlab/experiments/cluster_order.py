"""The order in which training clusters are added one after another, and the tasks of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from flanlab.data.choices import short_permutation
from flanlab.experiments.cells import with_tasks
from flanlab.experiments.recipe import Plan, Recipe
from flanlab.tasks.clusters import Cluster
from flanlab.tasks.schema import Task

PAPER_ORDER = (
    Cluster.SUMMARIZATION,
    Cluster.TRANSLATION,
    Cluster.READING_COMPREHENSION,
    Cluster.SENTIMENT,
    Cluster.STRUCT_TO_TEXT,
    Cluster.COREFERENCE,
    Cluster.MISCELLANEOUS,
)
"""Section 4.1: by decreasing number of data sets. Of the miscellaneous ones the paper took conversational QA alone."""


def training_clusters(plan: Plan) -> dict[Cluster, list[Task]]:
    """The clusters that a plan trains on with their tasks: in the paper's order, then the others, largest first."""
    members: dict[Cluster, list[Task]] = {}
    for task in plan.split.train:
        members.setdefault(task.clusters[0], []).append(task)
    others = sorted(set(members) - set(PAPER_ORDER), key=lambda cluster: (-len(members[cluster]), cluster))
    return {cluster: members[cluster] for cluster in (*PAPER_ORDER, *others) if cluster in members}


def training_on(plan: Plan, tasks: Iterable[Task]) -> Recipe:
    """The plan's recipe with no other training tasks than these; what is held out stays."""
    held_out = {task.name for task in plan.split.held_out}
    return with_tasks(plan.recipe, {task.name for task in tasks} | held_out)


def some_of_each(clusters: Mapping[Cluster, Sequence[Task]], number: int, seed: int) -> list[Task]:
    """Up to `number` tasks of each cluster, chosen by the seed: the first of one order, so that few are among the many."""
    chosen: list[Task] = []
    for cluster, members in clusters.items():
        order = short_permutation(len(members), (seed, cluster.value, "tasks per cluster"))
        chosen += [members[place] for place in order[:number]]
    return chosen
