"""The mixture: the example at each position of the training stream, as a pure function of the position.

The stream runs in *cycles*. A cycle has min(rows, maximum) examples of each task (examples-proportional mixing with a maximum,
section 2.4), each cycle in another order. The position determines task, row, epoch, template and the order of the options, by
arithmetic and counter-based permutations. Nothing is drawn from a running generator. So each position can be reached at once,
by any process, after any interruption.
"""

from __future__ import annotations

import contextlib
import functools
import gc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from flanlab.data.choices import Key, fraction, permutation, rotating_choice, short_permutation
from flanlab.data.encoding import EncodedQuestion, TextEncoder
from flanlab.data.exemplars import MOST_SHOTS, NO_EXEMPLARS, Exemplars, Pool, put_exemplars_before
from flanlab.data.rendering import Example, PreparedRow, open_row, render, shorten_longest_field
from flanlab.data.sources import Rows
from flanlab.errors import FlanlabError
from flanlab.settings import TRAINING, Settings
from flanlab.tasks.phrasing import Phrasing, phrased
from flanlab.tasks.schema import Task

OptionOrder = Literal["shuffled", "fixed", "none"]


class MixtureSettings(Settings):
    """How tasks are mixed and rendered. The defaults are the paper's (section 2.4), except for the shuffled options.

    `docs/reference/recipe.md` describes the fields.
    """

    train_cap: Annotated[int, TRAINING] = Field(
        default=30_000, gt=0, description="Largest number of rows of a task that train."
    )
    maximum: Annotated[int, TRAINING] = Field(
        default=3_000, gt=0, description="Rows beyond this number do not increase a task's weight."
    )
    temperature: Annotated[float, TRAINING] = Field(default=1.0, gt=0, description="Above 1, small tasks get more weight.")
    prompt_tokens: Annotated[int, TRAINING] = Field(
        default=1024, gt=0, description="Limit of a prompt. Longer ones lose the end of their longest field."
    )
    target_tokens: Annotated[int, TRAINING] = Field(
        default=256, gt=0, description="Limit of a target. Examples with longer ones are left out."
    )
    options: Annotated[OptionOrder | Literal["mixed"], TRAINING] = Field(
        default="shuffled",
        description="Order of the OPTIONS block: shuffled, fixed, or none (not shown). mixed: shown in a share of the examples,"
        " shuffled.",
    )
    options_share: Annotated[float, TRAINING] = Field(
        default=0.5, ge=0, le=1, description="For options: mixed, the share of the examples that show OPTIONS."
    )
    shots: Annotated[dict[Annotated[int, Field(ge=0, le=MOST_SHOTS)], Annotated[float, Field(ge=0)]], TRAINING] = Field(
        default={0: 1.0},
        description="Share of the examples by number of exemplars from the train split, such as {0: 0.5, 4: 0.5}.",
    )
    shot_tokens: Annotated[int, TRAINING] = Field(
        default=960, gt=0, description="Limit of exemplars and prompt together (section 4.4)."
    )
    inverted: Annotated[bool, TRAINING] = Field(default=True, description="Also train on inverted templates.")
    templates_per_task: Annotated[int | None, TRAINING] = Field(
        default=None, gt=0, description="Number of forward templates of each task, chosen at random. All by default."
    )
    instructions: Annotated[Phrasing, TRAINING] = Field(
        default="full",
        description="full, or for ablations: none (only the inputs) or name (names of task type and data set first).",
    )

    @field_validator("shots")
    @classmethod
    def _are_shares(cls, shots: dict[int, float]) -> dict[int, float]:
        if abs(sum(shots.values()) - 1) > 1e-6:
            raise ValueError(f"the shares of `shots` add up to {sum(shots.values()):g}; they must add up to 1")
        return shots

    def option_order_of(self, key: Key) -> OptionOrder:
        """How the example with this key shows its options."""
        if self.options != "mixed":
            return self.options
        return "shuffled" if fraction((*key, "options shown")) < self.options_share else "none"

    def shots_of(self, key: Key) -> int:
        """How many exemplars the example with this key should have."""
        place = fraction((*key, "shots")) * sum(self.shots.values())
        for number, share in sorted(self.shots.items()):
            place -= share
            if place < 0:
                return number
        return max(number for number, share in self.shots.items() if share)


class Address(NamedTuple):
    """The row at a position of the stream."""

    task: int
    row: int
    epoch: int


@dataclass(frozen=True, slots=True)
class EncodedExample:
    """An example with its tokens. The prompt begins with its exemplars, and the target ends with the end token."""

    example: Example
    prompt: list[int]
    target: list[int]
    shortened: bool
    options_shown: bool = False
    exemplars: Exemplars = NO_EXEMPLARS

    @property
    def length(self) -> int:
        """Tokens of prompt and target together."""
        return len(self.prompt) + len(self.target)


@dataclass(frozen=True, slots=True)
class Dropped:
    """An example that does not fit. Its position stays empty."""

    task: str
    row: int
    template: int
    reason: str


class Choice(NamedTuple):
    """What is shown: a row through a template, with its options in an order (None: not shown)."""

    task: Task
    template: int
    row: PreparedRow
    order: Sequence[int] | None
    key: Key = ()
    """The key of further choices for it."""


_EXAMPLES_AT_ONCE = 10_000


class Mixture:
    """The training stream over tasks and their rows."""

    def __init__(
        self,
        tasks: Sequence[Task],
        rows: Mapping[str, Rows],
        settings: MixtureSettings,
        seed: int,
        exemplar_rows: Mapping[str, Rows] | None = None,
    ) -> None:
        """Exemplars come from `exemplar_rows`, or from `rows` if not given."""
        if not tasks:
            raise FlanlabError("No task is left to train on.", hint="Hold out fewer clusters, or include more tasks.")
        self.tasks = tuple(phrased(task, settings.instructions) for task in tasks)
        self.settings = settings
        self.seed = seed
        self.rows = rows
        self.exemplar_rows = rows if exemplar_rows is None else exemplar_rows
        self._templates = [self._training_templates(task) for task in self.tasks]
        self.row_counts = [min(len(rows[task.name]), settings.train_cap) for task in tasks]
        self.cycle_counts = examples_per_cycle(self.row_counts, settings.maximum, settings.temperature)
        self._bounds = np.cumsum(self.cycle_counts)

    @property
    def cycle_length(self) -> int:
        """Examples in one cycle."""
        return int(self._bounds[-1])

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

    def examples(self, positions: Sequence[int], encoder: TextEncoder) -> list[EncodedExample | Dropped]:
        """The rendered and encoded example at each of the positions, or why it is left out. Many at once are much faster."""
        with _garbage_collection_paused():
            choices = [self._choice(address) for address in self.addresses(positions)]
            found = encode_within(choices, encoder, self.settings.prompt_tokens, self.settings.target_tokens)
            if self.settings.shots.get(0) == 1:
                return found
            return [self._after_exemplars(*pair, encoder) for pair in zip(choices, found, strict=True)]

    def stream(self, positions: range, encoder: TextEncoder) -> Iterator[EncodedExample | Dropped]:
        """The examples at `positions`, in order, with few of them in memory at a time."""
        for start in range(0, len(positions), _EXAMPLES_AT_ONCE):
            yield from self.examples(positions[start : start + _EXAMPLES_AT_ONCE], encoder)

    def mean_length(self, encoder: TextEncoder, sample: int = 1_000) -> float:
        """Mean number of tokens of the first examples of the stream, prompt and target together."""
        head = self.stream(range(min(sample, self.cycle_length)), encoder)
        lengths = [found.length for found in head if isinstance(found, EncodedExample)]
        if not lengths:
            raise FlanlabError(
                "No example fits into the limits for prompt and target.",
                hint="Raise mixture.prompt_tokens or mixture.target_tokens.",
            )
        return float(np.mean(lengths))

    def _choice(self, address: Address) -> Choice:
        task = self.tasks[address.task]
        row_key = (self.seed, task.name, address.row)
        templates = self._templates[address.task]
        template = templates[rotating_choice(len(templates), address.epoch, (*row_key, "template"))]
        row = open_row(task, self.rows[task.name][address.row], address.row)
        key = (*row_key, address.epoch)
        order = option_order(self.settings.option_order_of(key), len(row.options), key) if row.options else None
        return Choice(task, template, row, order, key)

    def _after_exemplars(
        self, choice: Choice, found: EncodedExample | Dropped, encoder: TextEncoder
    ) -> EncodedExample | Dropped:
        """An example with as many exemplars as its key says and as fit into its prompt."""
        settings, key = self.settings, choice.key
        count = settings.shots_of(key)
        if not count or isinstance(found, Dropped):
            return found
        mode = settings.option_order_of(key)
        question, exemplars = put_exemplars_before(
            found.example,
            [found.example.target],
            EncodedQuestion(found.prompt, [found.target]),
            task=choice.task,
            row=choice.row,
            pool=self._pool(choice.task),
            count=count,
            tokens=min(settings.shot_tokens, settings.prompt_tokens),
            order=lambda drawn: option_order(mode, len(drawn.options), (*key, drawn.index)) if drawn.options else None,
            key=key,
            encoder=encoder,
        )
        return replace(found, prompt=question.prompt, target=question.answers[0], exemplars=exemplars)

    def _pool(self, task: Task) -> Pool:
        """The rows that may train."""
        rows = self.exemplar_rows[task.name]
        return Pool(rows, self._capped(task.name, len(rows))[: self.settings.train_cap])

    def _training_templates(self, task: Task) -> list[int]:
        forward = task.forward_templates()
        # The first ones of one order, so that a small choice is contained in a larger one.
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
        return int(self._capped(name, len(self.rows[name]))[place])

    def _capped(self, name: str, count: int) -> NDArray[np.int64]:
        # A random sample, because many data sets are sorted by label.
        return _remembered_permutation(count, (self.seed, name, "cap"))


@contextlib.contextmanager
def _garbage_collection_paused() -> Iterator[None]:
    """Pause the garbage collector. Rendering makes no cycles, but so many objects that the collector would take a third of the
    time.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            if not gc.get_freeze_count():
                # Moves existing objects to the oldest generation, or the collector would first search all new ones.
                gc.freeze()
                gc.unfreeze()
            gc.enable()


_remembered_permutation = functools.lru_cache(maxsize=512)(permutation)
"""Neighbouring positions share their orders. Recomputing one only costs time."""


def examples_per_cycle(row_counts: Sequence[int], maximum: int, temperature: float) -> list[int]:
    """Examples of each task in one cycle: min(n, maximum)^(1/temperature), as whole numbers of at least 1.

    At temperature 1 this is min(n, maximum) (section 2.4; Raffel et al. 2020, section 3.5.2).
    """
    capped = np.minimum(np.asarray(row_counts, dtype=float), maximum)
    weights = capped ** (1.0 / temperature)
    shares = weights / weights.sum() * capped.sum()
    return [int(count) for count in np.maximum(1, np.rint(shares))]


def option_order(mode: OptionOrder, count: int, key: tuple[int | str, ...]) -> list[int] | None:
    """Order in which a row's options are shown; None shows none. `key` identifies row and epoch."""
    if mode == "none":
        return None
    if mode == "fixed":
        return list(range(count))
    return short_permutation(count, (*key, "options"))


def encode_within(
    choices: Sequence[Choice], encoder: TextEncoder, prompt_tokens: int, target_tokens: int
) -> list[EncodedExample | Dropped]:
    """Render and encode. The longest input is shortened until the prompt fits. If it cannot fit, the example is dropped."""
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
                shown = choice.order is not None and bool(example.options)
                found[place] = EncodedExample(example, prompt, target, bool(choice.row.cut), shown)
            else:
                characters_per_token = len(example.prompt) / len(prompt)
                shorter = shorten_longest_field(choice.row, int(excess * characters_per_token) + 8)
                if shorter is None:
                    found[place] = Dropped(choice.task.name, choice.row.index, choice.template, "prompt too long")
                else:
                    too_long[place] = choice._replace(row=shorter)
        remaining = too_long
    return [found[place] for place in range(len(choices))]
