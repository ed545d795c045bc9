"""The examples of each training step, rendered ahead of the model by worker processes; and those that are not trained on."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from torch.utils.data import DataLoader

from flanlab.data.encoding import TextEncoder
from flanlab.data.mixture import EncodedExample, Mixture, MixtureSettings
from flanlab.data.sources import Rows
from flanlab.errors import FlanlabError
from flanlab.tasks.schema import Task

_STEPS_AHEAD = 4
"""Steps each worker keeps ready."""
DevExamples = Mapping[str, Sequence[EncodedExample]]
"""Examples of dev splits by cluster, whose loss is measured while a model trains."""


def steps_of_examples(
    mixture: Mixture, encoder: TextEncoder, per_step: int, first: int, last: int, workers: int
) -> Iterator[list[EncodedExample]]:
    """The examples of the steps `first` to `last` - 1, without those that do not fit.

    A step's examples depend only on its number, so the stream is the same for any number of workers. With 0 workers, this
    process renders each step when it is needed.

    Raises:
        FlanlabError: a row cannot be rendered. The error is the same from a worker as from this process.
    """
    loader: DataLoader[list[EncodedExample] | FlanlabError] = DataLoader(
        range(first, last),  # type: ignore[arg-type]
        batch_size=None,
        collate_fn=partial(_examples_of, mixture, encoder, per_step),
        num_workers=workers,
        prefetch_factor=_STEPS_AHEAD if workers else None,
        worker_init_fn=settle_worker,
    )
    for step in loader:
        if isinstance(step, FlanlabError):
            raise step
        yield step


def usual_workers(device: str) -> int:
    """Number of workers: enough for a GPU; none on a CPU, where the model needs every core."""
    return min(8, max(1, (os.cpu_count() or 2) - 1)) if device == "cuda" else 0


def settle_worker(_: int) -> None:
    """What a worker process does first: it leaves signals to the trainer, and uses one core."""
    # A launcher's signal reaches the whole process group. Only the trainer handles it: it saves, then ends the workers.
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # SIGTERM must end a worker. A forked one would inherit its parent's handler.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # Threads of the tokenizers library do not survive a fork, and the workers already run in parallel.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def _examples_of(mixture: Mixture, encoder: TextEncoder, per_step: int, step: int) -> list[EncodedExample] | FlanlabError:
    positions = range(step * per_step, (step + 1) * per_step)
    try:
        return [found for found in mixture.examples(positions, encoder) if isinstance(found, EncodedExample)]
    except FlanlabError as error:
        # Returned, because an exception of a worker would have its traceback as the message.
        return error


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
