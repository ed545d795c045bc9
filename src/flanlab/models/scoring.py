"""Rank classification and greedy generation from one pass over each prompt.

All options of a question hang as branches on its prompt (see packed_attention), so the prompt is computed once; greedy
generation goes on from the same keys and values. Questions lie flat beside each other, so nothing is padded, and only the
positions that predict an answer token go through the output layer. An option's last token, its end, is predicted but never
read:

    tokens     p p p p | a0 a1 | b0
    predicts   . . . a0b0  a1 </s> </s>      <- logits are computed under the named positions alone
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from flanlab.errors import FlanlabError
from flanlab.models.packed_attention import PackedBatch, pack_segments, packed_forward

LOGIT_ROWS_PER_BATCH = 768
"""Bounds the memory of logits: rows x vocabulary x 4 bytes, 150 MB at a vocabulary of 49,152."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of the model: options to be scored, tokens to be generated, or both."""

    prompt: list[int]
    options: list[list[int]]
    """Token ids of each option, ending with the end token; may be empty."""
    max_new_tokens: int = 0
    """Longest generated answer, the end token included; 0 generates nothing."""
    stop_tokens: frozenset[int] = frozenset()
    """Tokens that end a generated answer; they are not part of it."""
    line_breaks: frozenset[int] = frozenset()
    """Tokens that end an answer that has begun, and are passed over before it: the answer is the first line with text."""

    @property
    def key(self) -> Hashable:
        """The same for questions that have the same answer."""
        return tuple(self.prompt), tuple(map(tuple, self.options)), self.max_new_tokens, self.stop_tokens, self.line_breaks

    @property
    def length(self) -> int:
        """Tokens that are computed: the prompt and each option but for its last token."""
        return len(self.prompt) + sum(len(option) - 1 for option in self.options)

    @property
    def logit_rows(self) -> int:
        """Positions whose logits are needed: the prompt's last, and each option token but the last."""
        return 1 + sum(len(option) - 1 for option in self.options)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model made of a question."""

    scores: list[float]
    """Log-probability of each option with its end token, summed over its tokens."""
    scores_without_end: list[float]
    """The same without the end token."""
    generated: list[int]
    """Tokens generated greedily, the stop token left out."""


def answer_questions(
    model: PreTrainedModel, questions: Sequence[Question], token_budget: int = 4096
) -> Iterator[tuple[int, Answer]]:
    """Answer questions in batches of up to `token_budget` tokens, longest first; yields (position, answer).

    The answers do not depend on the batching beyond rounding: every question is computed on its own tokens alone. See
    `answer_in_batches`.
    """
    return answer_in_batches(questions, token_budget, _batches, lambda batch, _: _answer_batch(model, batch), model.device)


def answer_in_batches(
    questions: Sequence[Question],
    token_budget: int,
    cut: Callable[[Sequence[Question], Sequence[int], int], Iterator[list[int]]],
    answer_batch: Callable[[Sequence[Question], int], list[Answer]],
    device: torch.device,
) -> Iterator[tuple[int, Answer]]:
    """Answer questions batch by batch; yields (position, answer).

    A question asked twice is computed once. A batch for which the memory does not suffice is halved, and so are those after it.

    Args:
        questions: any number, in any order.
        token_budget: tokens to be computed at once.
        cut: divides the positions of some of the questions into batches within a budget.
        answer_batch: answers the questions of a batch, within a budget.
        device: where this is computed.

    Raises:
        FlanlabError: the memory does not suffice for one question alone.
    """
    alike: dict[Hashable, list[int]] = {}
    for position, question in enumerate(questions):
        alike.setdefault(question.key, []).append(position)
    same = {positions[0]: positions for positions in alike.values()}
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
                    f"The memory of {device} does not suffice for a question of {largest} tokens.",
                    mend="Lower evaluation.prompt_tokens, or use a smaller model or a larger device.",
                ) from error
            token_budget = max(token_budget // 2, largest)
            torch.cuda.empty_cache()


def _batches(questions: Sequence[Question], positions: Sequence[int], token_budget: int) -> Iterator[list[int]]:
    batch: list[int] = []
    tokens = rows = 0
    for position in sorted(positions, key=lambda position: -questions[position].length):
        question = questions[position]
        full = tokens + question.length > token_budget or rows + question.logit_rows > LOGIT_ROWS_PER_BATCH
        if batch and full:
            yield batch
            batch, tokens, rows = [], 0, 0
        batch.append(position)
        tokens += question.length
        rows += question.logit_rows
    if batch:
        yield batch


@torch.inference_mode()
def _answer_batch(model: PreTrainedModel, questions: Sequence[Question]) -> list[Answer]:
    parts = [(question.prompt, [option[:-1] for option in question.options]) for question in questions]
    packed = pack_segments(parts).to(model.device)
    positions, targets, spans = _answer_positions(packed, questions)
    generates = any(question.max_new_tokens for question in questions)
    logits, cache = packed_forward(model, packed, positions, use_cache=generates)
    logits = logits.float()
    normalizer = logits.logsumexp(dim=-1)
    # Row r of the logits is asked for the tokens targets[r]: several where the options part, right after the prompt.
    rows = torch.tensor([row for row, _ in targets], dtype=torch.long, device=logits.device)
    tokens = torch.tensor([token for _, token in targets], dtype=torch.long, device=logits.device)
    token_scores = (logits[rows, tokens] - normalizer[rows]).double().cpu()
    generated: list[list[int]] = [[] for _ in questions]
    if generates:
        last_of_prompt = torch.tensor([first for first, _ in spans], device=logits.device)
        generated = _generate(model, cache, packed, questions, logits[last_of_prompt].argmax(dim=-1))
    answers = []
    for (_, option_spans), tokens_generated in zip(spans, generated, strict=True):
        scores = [float(token_scores[start:stop].sum()) for start, stop in option_spans]
        without_end = [float(token_scores[start : stop - 1].sum()) for start, stop in option_spans]
        answers.append(Answer(scores, without_end, tokens_generated))
    return answers


def _answer_positions(
    packed: PackedBatch, questions: Sequence[Question]
) -> tuple[Tensor, list[tuple[int, int]], list[tuple[int, list[tuple[int, int]]]]]:
    """Which token positions need logits, and which tokens each of them is asked for.

    Returns:
        positions: int64 [rows], token positions whose logits are needed.
        targets: (row, token) for every option token, options one after the other.
        spans: per question, the row that predicts the first answer token, and per option its range within targets.
    """
    positions: list[int] = []
    targets: list[tuple[int, int]] = []
    spans: list[tuple[int, list[tuple[int, int]]]] = []
    for (start, _, _), question in zip(packed.segments, questions, strict=True):
        first_row = len(positions)
        positions.append(start + len(question.prompt) - 1)
        token_position = start + len(question.prompt)
        option_spans = []
        for option in question.options:
            begin = len(targets)
            targets.append((first_row, option[0]))
            for offset, token in enumerate(option[1:]):
                targets.append((len(positions), token))
                positions.append(token_position + offset)
            token_position += len(option) - 1
            option_spans.append((begin, len(targets)))
        spans.append((first_row, option_spans))
    return torch.tensor(positions, device=packed.input_ids.device), targets, spans


def _generate(
    model: PreTrainedModel, cache: Any, packed: PackedBatch, questions: Sequence[Question], first: Tensor
) -> list[list[int]]:
    """Greedy decoding from the prompts' keys and values; `first` holds the first token of each answer, int64 [questions]."""
    generated: list[list[int]] = [[] for _ in questions]
    current = first.tolist()
    alive = [number for number, question in enumerate(questions) if goes_on(question, generated[number], current[number], 1)]
    if not alive:
        return generated
    lengths = torch.tensor([len(questions[number].prompt) for number in alive], device=first.device)
    starts = torch.tensor([packed.segments[number][0] for number in alive], device=first.device)
    prompt_cache, visible = _gather_prompts(cache, starts, lengths)
    tokens = first[torch.tensor(alive, device=first.device)]
    step = 0
    while alive:
        visible = torch.cat([visible, visible.new_ones(len(alive), 1)], dim=1)
        output = model(
            input_ids=tokens[:, None],
            position_ids=(lengths + step)[:, None],
            attention_mask=visible[:, None, None, :],
            past_key_values=prompt_cache,
            use_cache=True,
        )
        step += 1
        tokens = output.logits[:, -1].argmax(dim=-1)
        current = tokens.tolist()
        keep = [
            place
            for place, number in enumerate(alive)
            if goes_on(questions[number], generated[number], current[place], step + 1)
        ]
        if len(keep) < len(alive):
            alive = [alive[place] for place in keep]
            chosen = torch.tensor(keep, dtype=torch.long, device=first.device)
            lengths, visible, tokens = lengths[chosen], visible[chosen], tokens[chosen]
            prompt_cache.batch_select_indices(chosen)
    return generated


def goes_on(question: Question, generated: list[int], token: int, number: int) -> bool:
    """Take the `number`th token of an answer; whether the answer goes on after it."""
    if number > question.max_new_tokens or token in question.stop_tokens:
        return False
    if token not in question.line_breaks:
        generated.append(token)
    elif generated:
        return False
    return number < question.max_new_tokens


def _gather_prompts(cache: Any, starts: Tensor, lengths: Tensor) -> tuple[DynamicCache, Tensor]:
    """Lift the prompts out of a flat cache into a padded one; also what is no padding, bool [questions, longest]."""
    offsets = torch.arange(int(lengths.max()), device=starts.device)
    visible = offsets[None, :] < lengths[:, None]
    index = torch.where(visible, starts[:, None] + offsets[None, :], 0)
    prompts = DynamicCache()
    for number, layer in enumerate(cache.layers):
        # [1, heads, tokens, width] -> [questions, heads, longest prompt, width]
        keys = layer.keys[0][:, index].transpose(0, 1).contiguous()
        values = layer.values[0][:, index].transpose(0, 1).contiguous()
        prompts.update(keys, values, number)
    return prompts, visible
