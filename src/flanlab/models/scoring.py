"""Rank classification and greedy generation from one pass over each prompt.

All options of a question are branches of its prompt (see packed_attention), so the prompt is computed once. Greedy generation
continues from the same keys and values. Questions are packed without padding, and only positions that predict an answer token
go through the output layer. An option's last token, its end, is predicted but not read:

    tokens     p p p p | a0 a1 | b0
    predicts   . . . a0b0  a1 </s> </s>      <- logits are computed only at these positions

Questions are sorted by their tokens, so that those with the same beginning (the same template, the same passage) are neighbours
and share it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from flanlab.errors import FlanlabError
from flanlab.models.answering import Question
from flanlab.models.packed_attention import Place, Spans, check_reach, pack_sharing, packed_forward, shared_tokens

LOGIT_ROWS_PER_BATCH = 768
"""Limits the memory of logits: rows x vocabulary x 4 bytes, 150 MB for a vocabulary of 49,152."""
CPU_TOKENS = 1536
"""Tokens scored at once on a CPU. More do not fit into its cache: 4,096 take a tenth more time."""


@dataclass(frozen=True, slots=True)
class TokenAnswer:
    """The model's answer to a question."""

    scores: list[float]
    """Log-probability of each option with its end token, summed over its tokens."""
    scores_without_end: list[float]
    """The same without the end token."""
    generated: list[int]
    """Greedily generated tokens, without the stop token. The last one may be a line break that ends the answer."""
    failed: bool
    """Whether something computed for this answer is NaN or infinity: a score, or the logits that a token was generated from."""


def answer_questions(
    model: PreTrainedModel, questions: Sequence[Question], token_budget: int = 4096
) -> Iterator[tuple[int, TokenAnswer]]:
    """Answer questions in batches of up to `token_budget` tokens. Yields (position, answer).

    The answers do not depend on the batches, except for rounding: each question sees only its own tokens. See
    `answer_in_batches`.
    """
    # Generation, token by token, is fastest with as many questions at once as the budget allows.
    if model.device.type == "cpu" and not any(question.max_new_tokens for question in questions):
        token_budget = min(token_budget, CPU_TOKENS)
    return answer_in_batches(questions, token_budget, _batches, lambda batch, _: _answer_batch(model, batch), model.device)


def answer_in_batches(
    questions: Sequence[Question],
    token_budget: int,
    cut: Callable[[Sequence[Question], Sequence[int], int], Iterator[list[int]]],
    answer_batch: Callable[[Sequence[Question], int], list[TokenAnswer]],
    device: torch.device,
) -> Iterator[tuple[int, TokenAnswer]]:
    """Answer questions batch by batch. Yields (position, answer).

    A question that occurs twice is computed once. If the memory is too small for a batch, it and all later ones are halved.

    Args:
        questions: any number, in any order.
        token_budget: number of tokens to compute at once.
        cut: divides the positions of some of the questions into batches within a budget.
        answer_batch: answers the questions of a batch, within a budget.
        device: the device that computes.

    Raises:
        FlanlabError: the memory is too small for a single question.
    """
    same_key: dict[Hashable, list[int]] = {}
    for position, question in enumerate(questions):
        same_key.setdefault(question.key, []).append(position)
    same = {positions[0]: positions for positions in same_key.values()}
    left = list(same)
    while left:
        try:
            for batch in cut(questions, left, token_budget):
                answers = answer_batch([questions[position] for position in batch], token_budget)
                for first, answer in zip(batch, answers, strict=True):
                    yield from ((position, answer) for position in same[first])
                    left.remove(first)
        except torch.OutOfMemoryError as error:
            largest = max(questions[position].length for position in left)
            if token_budget <= largest:
                raise FlanlabError(
                    f"The memory of {device} is too small for a question of {largest} tokens.",
                    hint="Lower prompt_tokens (evaluation.prompt_tokens in a recipe, --prompt-tokens of `flan eval`), or use"
                    " a smaller model or a larger device.",
                ) from error
            token_budget = max(token_budget // 2, largest)
            torch.cuda.empty_cache()


def _batches(questions: Sequence[Question], positions: Sequence[int], token_budget: int) -> Iterator[list[int]]:
    """Questions with the same beginning are in the same batch. Batches with long questions come first."""
    batches: list[list[int]] = []
    tokens = rows = 0
    before: Sequence[int] = ()
    for position in sorted(positions, key=lambda position: questions[position].prompt):
        question = questions[position]
        new = question.length - shared_tokens(before, question.prompt)
        if not batches or tokens + new > token_budget or rows + question.logit_rows > LOGIT_ROWS_PER_BATCH:
            batches.append([])
            tokens, rows, new = 0, 0, question.length
        batches[-1].append(position)
        tokens += new
        rows += question.logit_rows
        before = question.prompt
    yield from sorted(batches, key=lambda batch: -max(questions[position].length for position in batch))


@torch.inference_mode()
def _answer_batch(model: PreTrainedModel, questions: Sequence[Question]) -> list[TokenAnswer]:
    check_reach(model.config, max(question.reach for question in questions))
    packed, places = pack_sharing([(question.prompt, [option[:-1] for option in question.options]) for question in questions])
    packed = packed.to(model.device)
    positions, first_rows, targets = _answer_positions(places, questions)
    generates = any(question.max_new_tokens for question in questions)
    logits, cache = packed_forward(model, packed, torch.tensor(positions, device=model.device), use_cache=generates)
    logits = logits.float()
    # Row r of the logits scores the tokens targets[r]: several where options begin to differ.
    scores = iter(token_scores(logits, [row for row, _ in targets], [token for _, token in targets]))
    generated: list[list[int]] = [[] for _ in questions]
    unsound: set[int] = set()
    if generates:
        first = logits[torch.tensor(first_rows, device=logits.device)]
        prompts = [place.prompt for place in places]
        generated, unsound = generate(questions, first, lambda some: _Prompts(model, cache, [prompts[one] for one in some]))
    options = [option for question in questions for option in question.options]
    return token_answers(questions, [[next(scores) for _ in option] for option in options], generated, unsound)


def token_scores(logits: Tensor, rows: Sequence[int], tokens: Sequence[int]) -> list[float]:
    """Log-probability of each token, given the row of `logits` [rows, vocabulary] that is paired with it."""
    logits = logits.float()
    index = torch.tensor(rows, dtype=torch.long, device=logits.device)
    targets = torch.tensor(tokens, dtype=torch.long, device=logits.device)
    # Some rows at a time, because this copies the logits.
    normalizer = torch.cat([some.logsumexp(dim=-1) for some in logits.split(64)])
    scores: list[float] = (logits[index, targets] - normalizer[index]).double().tolist()
    return scores


def token_answers(
    questions: Sequence[Question], scores: Sequence[list[float]], generated: Sequence[list[int]], unsound: set[int]
) -> list[TokenAnswer]:
    """The answers from the scores of each option's tokens, all options one after the other, and the generated tokens."""
    of_options = iter(scores)
    answers = []
    for number, (question, tokens) in enumerate(zip(questions, generated, strict=True)):
        own = [next(of_options) for _ in question.options]
        sums = [sum(each) for each in own]
        failed = number in unsound or not all(map(math.isfinite, sums))
        answers.append(TokenAnswer(sums, [sum(each[:-1]) for each in own], tokens, failed))
    return answers


def _answer_positions(
    places: Sequence[Place], questions: Sequence[Question]
) -> tuple[list[int], list[int], list[tuple[int, int]]]:
    """Which token positions need logits, and which tokens each of them scores.

    Returns:
        positions: token positions whose logits are needed, each once.
        first_rows: per question, which of the positions predicts the first answer token.
        targets: (row, token) for each option token, options one after the other. Row r belongs to positions[r].
    """
    rows: dict[int, int] = {}
    first_rows: list[int] = []
    targets: list[tuple[int, int]] = []
    for place, question in zip(places, questions, strict=True):
        start, length = place.prompt[-1]
        last_of_prompt = start + length - 1
        first_rows.append(rows.setdefault(last_of_prompt, len(rows)))
        for option, branch in zip(question.options, place.branches, strict=True):
            for token, position in zip(option, [last_of_prompt, *branch], strict=True):
                targets.append((rows.setdefault(position, len(rows)), token))
    return list(rows), first_rows, targets


class Decoding(Protocol):
    """Answers that are being generated: a row each, with the keys and values of all that was read."""

    def select(self, rows: Sequence[int]) -> Decoding:
        """The same with only these rows."""

    def read(self, tokens: Tensor) -> Tensor:
        """Read the next token of each row, int64 [rows]. Returns the logits of the one after it, [rows, vocabulary]."""


def generate(
    questions: Sequence[Question], logits: Tensor, begin: Callable[[list[int]], Decoding]
) -> tuple[list[list[int]], set[int]]:
    """Greedy decoding of the questions that ask for it.

    Args:
        questions: those of a batch.
        logits: of the first token of each answer, [questions, vocabulary].
        begin: gives the state after the prompts of some of the questions, by their numbers.

    Returns:
        The tokens of each answer, and the questions whose logits were NaN, of which decoding would take an arbitrary token.
    """
    generated: list[list[int]] = [[] for _ in questions]
    unsound: set[int] = set()
    alive = [number for number, question in enumerate(questions) if question.max_new_tokens]
    logits = logits[alive]
    state: Decoding | None = None
    for count in itertools.count(1):
        largest, tokens = logits.max(dim=-1)  # NaN if the row has one
        unsound.update(number for number, sound in zip(alive, largest.isfinite().tolist(), strict=True) if not sound)
        newest = zip(alive, tokens.tolist(), strict=True)
        kept = [
            row for row, (number, token) in enumerate(newest) if _goes_on(questions[number], generated[number], token, count)
        ]
        if not kept:
            break
        if state is None:
            state = begin([alive[row] for row in kept])
        elif len(kept) < len(alive):
            state = state.select(kept)
        alive, tokens = [alive[row] for row in kept], tokens[kept]
        logits = state.read(tokens)
    return generated, unsound


def _goes_on(question: Question, generated: list[int], token: int, number: int) -> bool:
    """Add the `number`th token of an answer. Returns whether the answer continues after it."""
    if token in question.stop_tokens:
        return False
    if token in question.line_breaks and not generated:
        return number < question.max_new_tokens
    generated.append(token)
    # It may be a token such as ".\n", whose text before the line break belongs to the answer.
    if token in question.line_breaks:
        return False
    return number < question.max_new_tokens


class _Prompts:
    """Decoding after some prompts of a packed row, whose keys and values are copied into a padded cache."""

    def __init__(self, model: PreTrainedModel, packed: DynamicCache, prompts: Sequence[Spans]) -> None:
        self._model = model
        places = [[place for start, length in spans for place in range(start, start + length)] for spans in prompts]
        longest = max(map(len, places))
        index = torch.tensor([[*own, *[0] * (longest - len(own))] for own in places], device=model.device)
        self._lengths = torch.tensor([len(own) for own in places], device=model.device)
        """Tokens of each row so far, int64 [rows]."""
        self._visible = torch.arange(longest, device=model.device) < self._lengths[:, None]
        """Whether a place of the cache holds a token, bool [rows, places]."""
        self._cache = DynamicCache()
        layers: list[Any] = packed.layers
        for number, layer in enumerate(layers):
            # [1, heads, tokens, width] -> [rows, heads, longest prompt, width]
            keys, values = (part[0][:, index].transpose(0, 1).contiguous() for part in (layer.keys, layer.values))
            self._cache.update(keys, values, number)

    def select(self, rows: Sequence[int]) -> _Prompts:
        chosen = torch.tensor(rows, device=self._lengths.device)
        self._lengths, self._visible = self._lengths[chosen], self._visible[chosen]
        self._cache.batch_select_indices(chosen)
        return self

    def read(self, tokens: Tensor) -> Tensor:
        self._visible = torch.cat([self._visible, self._visible.new_ones(len(tokens), 1)], dim=1)
        output = self._model(
            input_ids=tokens[:, None],
            position_ids=self._lengths[:, None],
            attention_mask=self._visible[:, None, None, :],
            past_key_values=self._cache,
            use_cache=True,
        )
        self._lengths = self._lengths + 1
        logits: Tensor = output.logits[:, -1]
        return logits
