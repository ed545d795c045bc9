"""Rank classification and greedy generation with an encoder-decoder model (T5, BART), from one pass over each prompt.

The encoder reads a prompt once. The decoder reads the tokens before an answer once. All options are scored from its keys and
values, which include the prompt's, and generation continues from them:

    encoder    p p p p </s>
    decoder    <start> | a0 a1   | b0            an option's last token, its end, is predicted but not read
    predicts   a0b0    | a1 </s> | </s>          <- only these rows go through the output layer

Prompts and options are padded on the right, and padding is masked, so it changes no score.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from flanlab.errors import FlanlabError
from flanlab.models.answering import Question
from flanlab.models.attention_features import refuse_no_numbers
from flanlab.models.packed_attention import check_reach
from flanlab.models.scoring import (
    LOGIT_ROWS_PER_BATCH,
    TokenAnswer,
    answer_in_batches,
    generate,
    token_answers,
    token_scores,
)


@dataclass(frozen=True)
class _Context:
    """The state from which the decoder continues, with a row for each current answer.

    `encoded` has shape [rows, longest prompt, width]. `visible` [rows, longest prompt] is 0 at padding, else 1. `cache` has the
    keys and values of the prompt and of the tokens that the decoder has read.
    """

    model: PreTrainedModel
    encoded: Tensor
    visible: Tensor
    cache: EncoderDecoderCache

    def select(self, rows: Sequence[int]) -> _Context:
        """A copy with these rows, each as often as it is listed."""
        index = torch.tensor(rows, device=self.encoded.device)
        copies = []
        for part in (self.cache.self_attention_cache, self.cache.cross_attention_cache):
            copy = DynamicCache()
            layers: list[Any] = part.layers
            for number, layer in enumerate(layers):
                copy.update(layer.keys[index], layer.values[index], number)
            copies.append(copy)
        return replace(self, encoded=self.encoded[index], visible=self.visible[index], cache=EncoderDecoderCache(*copies))

    def read(self, tokens: Tensor) -> Tensor:
        """Read a token for each row, int64 [rows]. Returns logits [rows, vocabulary]."""
        return _decode(self, tokens[:, None], [[0]] * len(tokens))


def answer_from_encoder(
    model: PreTrainedModel, answer_start: Sequence[int], questions: Sequence[Question], token_budget: int = 4096
) -> Iterator[tuple[int, TokenAnswer]]:
    """Answer questions in batches of up to `token_budget` tokens, longest prompt first. Yields (position, answer).

    `answer_start` has the tokens that the decoder reads before an answer. The answers do not depend on the batches, except for
    rounding. See `answer_in_batches`.

    Raises:
        FlanlabError: a prompt is longer than the model can read.
    """
    return answer_in_batches(
        questions, token_budget, _batches, lambda batch, budget: _answer_batch(model, answer_start, batch, budget), model.device
    )


def _batches(questions: Sequence[Question], positions: Sequence[int], token_budget: int) -> Iterator[list[int]]:
    by_length = sorted(positions, key=lambda position: -len(questions[position].prompt))
    while by_length:
        # All are padded to the length of the first.
        count = min(max(1, token_budget // len(questions[by_length[0]].prompt)), LOGIT_ROWS_PER_BATCH)
        yield by_length[:count]
        by_length = by_length[count:]


@torch.inference_mode()
def _answer_batch(
    model: PreTrainedModel, answer_start: Sequence[int], questions: Sequence[Question], token_budget: int
) -> list[TokenAnswer]:
    context, logits = _read_prompts(model, answer_start, [question.prompt for question in questions])
    rows = [row for row, question in enumerate(questions) for _ in question.options]
    options = [option for question in questions for option in question.options]
    scores = [[score] for score in token_scores(logits, rows, [option[0] for option in options])]
    for chunk in _chunks(options, context.encoded.shape[1], token_budget):
        tokens_scores = _score_rest(context.select([rows[number] for number in chunk]), [options[n] for n in chunk])
        for number, further in zip(chunk, tokens_scores, strict=True):
            scores[number].extend(further)
    everyone = list(range(len(questions)))
    generated, unsound = generate(questions, logits, lambda some: context if some == everyone else context.select(some))
    return token_answers(questions, scores, generated, unsound)


def _read_prompts(
    model: PreTrainedModel, answer_start: Sequence[int], prompts: Sequence[Sequence[int]], filler: int = 0
) -> tuple[_Context, Tensor]:
    """The decoder's state, and the logits of each answer's first token, [prompts, vocabulary]."""
    check_reach(model.config, max(map(len, prompts)))
    ids = padded(prompts, model.device, filler)
    visible = visible_places(prompts, model.device)
    encoded = model.get_encoder()(input_ids=ids, attention_mask=visible).last_hidden_state
    context = _Context(model, encoded, visible, EncoderDecoderCache(DynamicCache(), DynamicCache()))
    start = torch.tensor([answer_start] * len(prompts), device=model.device)
    return context, _decode(context, start, [[len(answer_start) - 1]] * len(prompts))


def padded(sequences: Sequence[Sequence[int]], device: torch.device, filler: int = 0) -> Tensor:
    """The sequences as rows, padded on the right: int64 [sequences, longest]."""
    longest = max(map(len, sequences))
    return torch.tensor([[*tokens, *[filler] * (longest - len(tokens))] for tokens in sequences], device=device)


def visible_places(sequences: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """0 at the padding of the padded sequences, else 1: int64 [sequences, longest]."""
    lengths = torch.tensor([len(tokens) for tokens in sequences], device=device)
    return (torch.arange(max(map(len, sequences)), device=device) < lengths[:, None]).long()


def _chunks(options: Sequence[Sequence[int]], prompt: int, token_budget: int) -> Iterator[list[int]]:
    """Options with more than one token. Each is computed with a copy of its padded prompt."""
    by_length = sorted((n for n, option in enumerate(options) if len(option) > 1), key=lambda n: -len(options[n]))
    while by_length:
        read = len(options[by_length[0]]) - 1
        count = max(1, min(token_budget // (prompt + read), LOGIT_ROWS_PER_BATCH // read))
        yield by_length[:count]
        by_length = by_length[count:]


def _score_rest(context: _Context, options: Sequence[Sequence[int]]) -> list[list[float]]:
    """Log-probability of each token of the options except the first. The context has a row for each option."""
    logits = _decode(
        context,
        padded([option[:-1] for option in options], context.encoded.device),
        [range(len(option) - 1) for option in options],
    )
    targets = [token for option in options for token in option[1:]]
    scores = iter(token_scores(logits, range(len(targets)), targets))
    return [[next(scores) for _ in option[1:]] for option in options]


def _decode(context: _Context, tokens: Tensor, wanted: Sequence[Sequence[int]]) -> Tensor:
    """Let the decoder read more tokens. Returns logits [places, vocabulary] at the wanted places of each row only.

    Args:
        context: the state; its cache grows by the tokens.
        tokens: int64 [rows, time].
        wanted: the wanted places of each row, 0 being its first token.
    """
    rows, time = tokens.shape
    chosen = torch.tensor([row * time + place for row, places in enumerate(wanted) for place in places], device=tokens.device)
    with logits_of(context.model, chosen, (rows, time)):
        output = context.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=context.encoded),
            attention_mask=context.visible,
            decoder_input_ids=tokens,
            past_key_values=context.cache,
            use_cache=True,
        )
    logits: Tensor = output.logits
    if logits.shape[:-1] != (1, len(chosen)):
        raise _unfit(context.model)
    return logits[0]


@contextmanager
def logits_of(model: nn.Module, chosen: Tensor, shape: tuple[int, int]) -> Iterator[None]:
    """During the block, the model computes logits only at the chosen places: [1, chosen, vocabulary].

    The model itself still changes hidden states before the output layer (T5 may scale them) and logits after it (BART adds a
    bias). Only the number of rows that enter the layer is smaller.

    Args:
        model: an encoder-decoder model, which may be wrapped in another module.
        chosen: int64, places in the decoder's flattened rows.
        shape: number of the decoder's rows, and their length.

    Raises:
        FlanlabError: the model has no output layer of this kind.
    """

    def choose(_: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        (hidden,) = inputs
        if hidden.shape[:-1] != shape:
            raise _unfit(model)
        return (hidden.flatten(0, 1)[chosen][None],)

    inner: Any = getattr(model, "module", model)
    head = inner.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        raise _unfit(model)
    hook = head.register_forward_pre_hook(choose)
    try:
        yield
    finally:
        hook.remove()


def _unfit(model: nn.Module) -> FlanlabError:
    return FlanlabError(
        f"{type(model).__name__} does not compute its logits with one output layer for each position.",
        hint="Use an encoder-decoder model of the T5 or BART family.",
    )


@torch.inference_mode()
def check_padding(model: PreTrainedModel, answer_start: Sequence[int]) -> None:
    """Refuse a model that reads padding: the padding must not change an answer, and the prompt must.

    Raises:
        FlanlabError: the architecture does not mask its padding, or has no output layer that `answer_from_encoder` can use.
    """
    short, long = list(range(5, 11)), list(range(12, 24))
    base, other_padding, other_prompt = (
        _read_prompts(model, answer_start, [prompt, long], filler)[1][0].float()
        for prompt, filler in ((short, 0), (short, 3), (short[::-1], 0))
    )
    refuse_no_numbers(model, base)
    masked = torch.allclose(base, other_padding, rtol=0, atol=1e-4)
    if not masked or torch.allclose(base, other_prompt, rtol=0, atol=1e-6):
        raise FlanlabError(
            f"{type(model).__name__}: answers depend on the padding of a prompt, or do not depend on the prompt.",
            hint="Use an encoder-decoder model of the T5 or BART family.",
        )
