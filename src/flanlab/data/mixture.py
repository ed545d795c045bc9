"""The mixture: which example stands where in the training stream, as a pure function of its position.

The stream runs in *cycles*. A cycle holds min(rows, maximum) examples of each task (examples-proportional mixing with a
maximum, section 2.4), in an order of its own. From a position follow, by arithmetic and counter-based permutations alone,
the task, the row, its epoch, the template and the order of the options: nothing is drawn from a running generator, so
every position can be reached at once, by any process, after any interruption.
"""

from __future__ import annotations

import contextlib
import functools
import gc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from flanlab.data.choices import permutation, rotating_choice, short_permutation
from flanlab.data.encoding import TextEncoder
from flanlab.data.rendering import (
    Example,
    PreparedRow,
    open_row,
    render,
    shorten_longest_field,
)
from flanlab.data.sources import Rows
from flanlab.errors import FlanlabError
from flanlab.tasks.phrasing import Phrasing, phrased
from flanlab.tasks.schema import Task

OptionOrder = Literal["shuffled", "fixed", "none"]


class MixtureSettings(BaseModel):
    """How tasks are mixed and rendered; the defaults are the paper's (section 2.4) but for the shuffled options."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    train_cap: int = Field(30_000, gt=0, description="Rows of a task that may train.")
    maximum: int = Field(3_000, gt=0, description="Rows beyond this number give a task no more weight.")
    temperature: float = Field(1.0, gt=0, description="Above 1, small tasks get more than their share.")
    prompt_tokens: int = Field(1024, gt=0, description="Longer prompts lose the end of their longest field.")
    target_tokens: int = Field(256, gt=0, description="Examples with longer targets are left out.")
    options: OptionOrder = Field("shuffled", description="Order of the OPTIONS block: shuffled, fixed, or none shown.")
    inverted: bool = Field(True, description="Train on inverted templates too.")
    templates_per_task: int | None = Field(
        None, gt=0, description="Forward templates of each task that train, a random choice; all, where not given."
    )
    instructions: Phrasing = Field(
        "full", description="full; or, for ablations, name (of task type and data set) or none before the bare inputs."
    )


class Address(NamedTuple):
    """What stands at a position of the stream."""

    task: int
    row: int
    epoch: int


@dataclass(frozen=True, slots=True)
class EncodedExample:
    """An example with its tokens; the target ends with the end token."""

    example: Example
    prompt: list[int]
    target: list[int]
    shortened: bool

    @property
    def length(self) -> int:
        """Tokens of prompt and target together."""
        return len(self.prompt) + len(self.target)


@dataclass(frozen=True, slots=True)
class Dropped:
    """An example that does not fit: the position stays empty."""

    task: str
    row: int
    template: int
    reason: str


class Choice(NamedTuple):
    """What is shown: a row through a template, its options in an order (None: not shown)."""

    task: Task
    template: int
    row: PreparedRow
    order: Sequence[int] | None


_EXAMPLES_AT_ONCE = 10_000


class Mixture:
    """The training stream over tasks and their rows."""

    def __init__(self, tasks: Sequence[Task], rows: Mapping[str, Rows], settings: MixtureSettings, seed: int) -> None:
        if not tasks:
            raise FlanlabError("No task is left to train on.", hint="Hold out fewer clusters, or include more tasks.")
        self.tasks = tuple(phrased(task, settings.instructions) for task in tasks)
        self.settings = settings
        self.seed = seed
        self._rows = rows
        self._templates = [self._training_templates(task) for task in self.tasks]
        self.row_counts = [min(len(rows[task.name]), settings.train_cap) for task in tasks]
        self.cycle_counts = examples_per_cycle(self.row_counts, settings.maximum, settings.temperature)
        self._bounds = np.cumsum(self.cycle_counts)

    @property
    def rows(self) -> Mapping[str, Rows]:
        """The rows of each task, by its name."""
        return self._rows

    @property
    def cycle_length(self) -> int:
        """Examples in one cycle."""
        return int(self._bounds[-1])

    def rates(self) -> dict[str, float]:
        """Share of each task among the examples."""
        return {task.name: count / self.cycle_length for task, count in zip(self.tasks, self.cycle_counts, strict=True)}

    def address(self, position: int) -> Address:
        """Task, row and epoch at a position of the stream."""
        return self.addresses([position])[0]

    def addresses(self, positions: Sequence[int]) -> list[Address]:
        """Task, row and epoch at each of the positions."""
        cycles, slots = np.divmod(np.asarray(positions, dtype=np.int64), self.cycle_length)
        places = np.empty_like(slots)
        for cycle in set(cycles.tolist()):
            at = cycles == cycle
            places[at] = _remembered_permutation(self.cycle_length, (self.seed, "cycle", cycle))[slots[at]]
        tasks = np.searchsorted(self._bounds, places, side="right")
        per_cycle = np.asarray(self.cycle_counts)[tasks]
        draws = (cycles + 1) * per_cycle + places - self._bounds[tasks]
        epochs, turns = np.divmod(draws, np.asarray(self.row_counts)[tasks])
        return [
            Address(task, self._row_at(task, epoch, turn), epoch)
            for task, epoch, turn in zip(tasks.tolist(), epochs.tolist(), turns.tolist(), strict=True)
        ]

    def example(self, position: int, encoder: TextEncoder) -> EncodedExample | Dropped:
        """The example at a position, rendered and encoded, or why it is left out."""
        return self.examples([position], encoder)[0]

    def examples(self, positions: Sequence[int], encoder: TextEncoder) -> list[EncodedExample | Dropped]:
        """The example at each of the positions; many at once go several times as fast as one by one."""
        with _garbage_collection_paused():
            choices = [self._choice(address) for address in self.addresses(positions)]
            return encode_within(choices, encoder, self.settings.prompt_tokens, self.settings.target_tokens)

    def stream(self, positions: range, encoder: TextEncoder) -> Iterator[EncodedExample | Dropped]:
        """The examples at `positions`, one after the other, with few of them in memory at a time."""
        for start in range(0, len(positions), _EXAMPLES_AT_ONCE):
            yield from self.examples(positions[start : start + _EXAMPLES_AT_ONCE], encoder)

    def mean_length(self, encoder: TextEncoder, sample: int = 1_000) -> float:
        """Mean tokens of the examples at the head of the stream, prompt and target together."""
        head = self.stream(range(min(sample, self.cycle_length)), encoder)
        lengths = [found.length for found in head if isinstance(found, EncodedExample)]
        if not lengths:
            raise FlanlabError(
                "No example fits into the lengths set.", hint="Raise mixture.prompt_tokens or mixture.target_tokens."
            )
        return float(np.mean(lengths))

    def _choice(self, address: Address) -> Choice:
        task = self.tasks[address.task]
        key = (self.seed, task.name, address.row)
        templates = self._templates[address.task]
        template = templates[rotating_choice(len(templates), address.epoch, (*key, "template"))]
        row = open_row(task, self._rows[task.name][address.row], address.row)
        order = option_order(self.settings.options, len(row.options), (*key, address.epoch)) if row.options else None
        return Choice(task, template, row, order)

    def _training_templates(self, task: Task) -> list[int]:
        forward = task.forward_templates()
        # The first of one order, so that few templates are always among the many.
        order = short_permutation(len(forward), (self.seed, task.name, "training templates"))
        chosen = {forward[place] for place in order[: self.settings.templates_per_task]}
        return [
            number
            for number, template in enumerate(task.templates, start=1)
            if number in chosen or (self.settings.inverted and template.direction == "inverted")
        ]

    def _row_at(self, task: int, epoch: int, turn: int) -> int:
        name, count = self.tasks[task].name, self.row_counts[task]
        place = _remembered_permutation(count, (self.seed, name, "rows", epoch))[turn]
        # The cap takes a random sample, since many data sets are sorted by label.
        return int(_remembered_permutation(len(self._rows[name]), (self.seed, name, "cap"))[place])


@contextlib.contextmanager
def _garbage_collection_paused() -> Iterator[None]:
    """Rendering makes no cycles, but so many objects that the collector would go through all there are again and again: a
    third of the time.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            if not gc.get_freeze_count():
                # Puts what is there among the old objects, or the collector would first go through all the new ones.
                gc.freeze()
                gc.unfreeze()
            gc.enable()


_remembered_permutation = functools.lru_cache(maxsize=512)(permutation)
"""Neighbouring positions share their orders; forgetting one only costs time."""


def examples_per_cycle(row_counts: Sequence[int], maximum: int, temperature: float) -> list[int]:
    """Examples of each task in one cycle: rates min(n, maximum)^(1/temperature), as whole numbers, none below 1.

    At temperature 1 these are min(n, maximum) themselves (section 2.4; Raffel et al. 2020, section 3.5.2).
    """
    capped = np.minimum(np.asarray(row_counts, dtype=float), maximum)
    weights = capped ** (1.0 / temperature)
    shares = weights / weights.sum() * capped.sum()
    return [int(count) for count in np.maximum(1, np.rint(shares))]


def option_order(mode: OptionOrder, count: int, key: tuple[int | str, ...]) -> list[int] | None:
    """Order in which a row's options are shown; None shows none. `key` identifies the row and epoch."""
    if mode == "none":
        return None
    if mode == "fixed":
        return list(range(count))
    return short_permutation(count, (*key, "options"))


def encode_within(
    choices: Sequence[Choice], encoder: TextEncoder, prompt_tokens: int, target_tokens: int
) -> list[EncodedExample | Dropped]:
    """Render and encode, shortening the longest input until the prompt fits; dropped where it cannot."""
    found: dict[int, EncodedExample | Dropped] = {}
    remaining = dict(enumerate(choices))
    while remaining:
        examples = [render(choice.task, choice.template, choice.row, choice.order) for choice in remaining.values()]
        questions = encoder.encode_batch([(example.prompt, [example.target]) for example in examples])
        too_long: dict[int, Choice] = {}
        for (place, choice), example, question in zip(remaining.items(), examples, questions, strict=True):
            prompt, [target] = question.prompt, question.answers
            excess = len(prompt) - prompt_tokens
            if len(target) > target_tokens:
                found[place] = Dropped(choice.task.name, choice.row.index, choice.template, "target too long")
            elif excess <= 0:
                found[place] = EncodedExample(example, prompt, target, bool(choice.row.cut))
            else:
                characters_per_token = len(example.prompt) / len(prompt)
                shorter = shorten_longest_field(choice.row, int(excess * characters_per_token) + 8)
                if shorter is None:
                    found[place] = Dropped(choice.task.name, choice.row.index, choice.template, "prompt too long")
                else:
                    too_long[place] = choice._replace(row=shorter)
        remaining = too_long
    return [found[place] for place in range(len(choices))]
