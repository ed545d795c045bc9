"""The loss on rows that are not trained on: the dev splits of the training clusters, by cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flanlab.data.encoding import TextEncoder
from flanlab.data.mixture import EncodedExample, Mixture, MixtureSettings
from flanlab.data.sources import Rows
from flanlab.tasks.schema import Task

DevExamples = Mapping[str, Sequence[EncodedExample]]
"""By cluster."""


def dev_examples(
    tasks: Sequence[Task],
    rows: Mapping[str, Rows],
    exemplar_rows: Mapping[str, Rows],
    settings: MixtureSettings,
    seed: int,
    encoder: TextEncoder,
    count: int,
) -> dict[str, list[EncodedExample]]:
    """The first `count` examples of each cluster's dev rows, mixed and rendered as in training. They are the same every time.

    Args:
        tasks: the training tasks. A task with several clusters counts for its first one.
        rows: dev rows by task. A task without dev rows is left out.
        exemplar_rows: train rows by task.
    """
    found: dict[str, list[EncodedExample]] = {}
    with_rows = [task for task in tasks if task.name in rows and len(rows[task.name])]
    for cluster in sorted({task.clusters[0] for task in with_rows}):
        members = [task for task in with_rows if task.clusters[0] == cluster]
        mixture = Mixture(members, rows, settings, seed, exemplar_rows)
        examples = mixture.examples(range(min(count, mixture.cycle_length)), encoder)
        found[cluster.value] = [example for example in examples if isinstance(example, EncodedExample)]
    return {cluster: examples for cluster, examples in found.items() if examples}
