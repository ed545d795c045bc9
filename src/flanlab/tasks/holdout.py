"""The hold-out: it decides which tasks train, which test, and whether a result is zero-shot."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from flanlab.errors import FlanlabError
from flanlab.settings import TRAINING, Settings
from flanlab.tasks.clusters import Cluster, related_clusters
from flanlab.tasks.schema import Split, Task

OverlapPolicy = Literal["error", "remove", "allow"]
ON_ITS_ROWS = "the model was trained on its train rows"
"""Why a score on a task is not zero-shot. It is in-domain if other rows are asked."""


class HoldOut(Settings):
    """What is kept out of training and evaluated.

    A task is unseen only if no task of any cluster it belongs to was trained on (section 2.2), with the paper's two
    exceptions (`related_clusters`). A training task may also share a source with a held-out task (`derived_from`).
    """

    clusters: Annotated[list[Cluster], TRAINING] = Field(
        default_factory=list, description="Clusters kept out of training. None by default: every task is trained on."
    )
    overlap: Annotated[OverlapPolicy, TRAINING] = Field(
        default="error",
        description="What to do with training tasks that share sources with held-out ones. error: refuse the recipe. remove:"
        " leave them out. allow: train on them; results are then marked as seen.",
    )
    supervised: Annotated[list[str], TRAINING] = Field(
        default_factory=list,
        description="Held-out tasks that are trained on, and nothing else: supervised learning, for comparison.",
    )

    def split(
        self,
        tasks: Sequence[Task],
        *,
        named: Iterable[str] = (),
        evaluated: Split = "test",
        known: Iterable[Task] = (),
    ) -> HoldOutSplit:
        """Divide tasks into those that train and those that test.

        Each subtask that has the split `evaluated` is tested separately.

        Args:
            tasks: all tasks of the recipe.
            named: training tasks that the user asked for by name. The overlap policy applies to them too. Other tasks of an
                excluded cluster are left out without an error.
            evaluated: the split that is evaluated.
            known: tasks that are not used, but may link two that are (`derived_from`).

        Raises:
            FlanlabError: under the policy `error`, when a training task overlaps with a held-out one.
        """
        test = [task for task in tasks if set(task.clusters) & set(self.clusters)]
        # A held-out task may belong to other clusters too. Training on any of them would make it seen.
        held_out = {*self.clusters, *(cluster for task in test for cluster in task.clusters)}
        excluded = {related for cluster in held_out for related in related_clusters(cluster)}
        tested = [subtask for task in test for subtask in task.evaluated_subtasks(evaluated)]
        ancestors = lineage([*known, *tasks, *tested])
        if self.supervised:
            return self._supervised_split(tasks, test, tested, ancestors)
        left_out: dict[str, str] = {}
        conflicts: dict[str, str] = {}
        asked_for = set(named)
        for task in tasks:
            overlaps = {other.name: shared for other in test if (shared := ancestors[task.name] & ancestors[other.name])}
            if close := sorted(set(task.clusters) & excluded):
                is_test = set(task.clusters) & set(self.clusters)
                reason = "held out" if is_test else f"its cluster {close[0]} is too close to the held-out clusters"
                (conflicts if task.name in asked_for else left_out)[task.name] = reason
            elif not task.has_split("train"):
                left_out[task.name] = "it has no train split"
            elif overlaps:
                conflicts[task.name] = "; ".join(
                    f"shares {', '.join(sorted(shared))} with the held-out {name}" for name, shared in sorted(overlaps.items())
                )
        if conflicts and self.overlap == "error":
            raise FlanlabError(
                "Training tasks overlap with held-out tasks:\n"
                + "\n".join(f"  {name}: {reason}" for name, reason in sorted(conflicts.items())),
                hint="Set `hold_out.overlap: remove` in the recipe to leave them out, or `allow` to train on them anyway.",
            )
        allowed = conflicts if self.overlap == "allow" else {}
        if not allowed:
            left_out |= conflicts
        train = tuple(task for task in tasks if task.name not in left_out)
        return HoldOutSplit(self, tuple(tasks), train, tuple(tested), left_out=left_out, allowed=allowed, lineage=ancestors)

    def _supervised_split(
        self, tasks: Sequence[Task], held_out: Sequence[Task], tested: Sequence[Task], ancestors: Mapping[str, frozenset[str]]
    ) -> HoldOutSplit:
        train = [task for task in held_out if task.name in self.supervised and task.has_split("train")]
        if missing := sorted(set(self.supervised) - {task.name for task in train}):
            raise FlanlabError(
                f"hold_out.supervised names {missing[0]}, which is not a held-out task with a train split.",
                hint="Name tasks of the held-out clusters, and include them in the recipe.",
            )
        names = {task.name for task in train}
        left_out = {task.name: "only the tasks in hold_out.supervised train" for task in tasks if task.name not in names}
        allowed = dict.fromkeys(sorted(names), "it is evaluated: this is supervised learning, not zero-shot")
        return HoldOutSplit(
            self, tuple(tasks), tuple(train), tuple(tested), left_out=left_out, allowed=allowed, lineage=ancestors
        )


@dataclass(frozen=True)
class HoldOutSplit:
    """Which tasks of a set train and which test, by a hold-out."""

    hold_out: HoldOut
    tasks: tuple[Task, ...]
    """All tasks of the recipe, whether they train, test or neither."""
    train: tuple[Task, ...]
    test: tuple[Task, ...]
    in_domain: tuple[Task, ...] = ()
    """Trained tasks that are scored too, on test rows that did not train: in-domain, not zero-shot."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Tasks that do not train: name to reason."""
    allowed: Mapping[str, str] = field(default_factory=dict)
    """Overlapping tasks that train because the user allowed it: name to reason."""
    lineage: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """For each task, its own name and every data set it derives from, through all tasks."""

    @property
    def held_out(self) -> tuple[Task, ...]:
        """The tasks of the held-out clusters. A task with subtasks counts as one."""
        return tuple(task for task in self.tasks if set(task.clusters) & set(self.hold_out.clusters))


def lineage(tasks: Iterable[Task]) -> dict[str, frozenset[str]]:
    """For each task, its own name and every data set it derives from, through any number of steps.

    Of two tasks with one name (a user's, and the built-in one that it replaces) the sources are put together.
    """
    parents: dict[str, set[str]] = {}
    for task in tasks:
        parents.setdefault(task.name, set()).update(task.derived_from)

    def ancestors(name: str, known: frozenset[str]) -> frozenset[str]:
        known |= {name}
        for parent in parents.get(name, ()):
            if parent not in known:
                known |= ancestors(parent, known)
        return known

    return {name: ancestors(name, frozenset()) for name in parents}


def seen_reason(task: Task, stamp: Mapping[str, Any], ancestors: Iterable[str] = ()) -> str | None:
    """Why a model with this stamp has seen `task` (it, its cluster, a related one, or a shared source), or None.

    Args:
        task: the task to evaluate.
        ancestors: every data set that it derives from, as `lineage` finds with the tasks that are known now.
        stamp: content of the model's `flanlab.json`. Its `tasks` maps each training task to clusters, subtasks and lineage. Its
            `lineage` maps each held-out task to its lineage, including steps through tasks that were not used.
    """
    trained: Mapping[str, Any] = stamp["tasks"]
    own = trained.get(task.name) or trained.get(task.whole.name)
    # A whole task may have been trained on without some of its subtasks; stamps of earlier versions do not say.
    if own is not None and {*task.subtasks} <= {*own.get("subtasks", task.subtasks)}:
        return ON_ITS_ROWS
    too_close = {related for cluster in task.clusters for related in related_clusters(cluster)}
    own_lineage = {task.name, *task.derived_from, *ancestors, *stamp.get("lineage", {}).get(task.name, ())}
    for name, facts in sorted(trained.items()):
        shared = sorted(too_close & {Cluster(value) for value in facts["clusters"]})
        if shared:
            return f"the model was trained on {name}, of the cluster {shared[0]}"
        sources = own_lineage & set(facts["lineage"])
        if sources:
            return f"the model was trained on {name}, which shares {', '.join(sorted(sources))} with it"
    return None
