"""A model behind an OpenAI-compatible endpoint, with the same questions as a local one.

If the model's tokenizer is known, prompts are sent as token ids, encoded as everywhere else. The server echoes them with their
log-probabilities, and the answer's tokens are found by count:

    sent       p p p p a0 a1 </s>
    returned   . . . . l0 l1 l2   g       <- g is the one generated token, because not every server accepts max_tokens 0

Otherwise text is sent, and the answer's tokens are found by their positions in the text. A token that spans the boundary
belongs to the answer. The end token is then unknown and not scored.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from flanlab.data.encoding import CharacterEncoder, Encoder, SeparateTextEncoder
from flanlab.errors import FlanlabError
from flanlab.models.answering import Answer, Question, Scoring
from flanlab.models.completions import Completions, Endpoint, RefusedError
from flanlab.models.loading import load_encoder

_PROBE = "Question: Is the sky blue on a clear day?\nAnswer:"
_PROBE_TOKENS = 8
"""The probe has more tokens than this for any tokenizer of words or subwords."""
_PROBE_ATTEMPTS = 3
"""A server without log-probabilities may fail with status 500, as if a retry could help."""
_UNABLE = frozenset({400, 404, 405, 415, 422, 500, 501})
"""Statuses with which servers refuse a request."""
_TAIL = 40
"""Number of characters before the boundary that are used to find a text among its tokens."""
_TOLERANCE = 0.05
"""Largest difference, in natural logs, between two computations of the same log-probability on a server."""
_LEAST = -1e6
"""Least log-probability that a server may return for a token."""


@dataclass(frozen=True)
class RemoteModel:
    """A model that is asked over HTTP."""

    name: str
    endpoint: Endpoint
    encoder: Encoder
    scoring: Scoring
    scoring_reason: str
    """Why options are not ranked by log-probabilities. Empty if they are."""
    completions: Completions

    stamp: None = None
    parameters: None = None
    dtype: None = None
    """A server does not say what its model was trained on, how large it is, or what it computes with."""

    @property
    def knows_tokens(self) -> bool:
        """Whether the tokenizer, and with it the end token, is known."""
        return not isinstance(self.encoder, CharacterEncoder)

    @cached_property
    def identity(self) -> str:
        """Hash of address, name and encoding. The weights behind a name may change unnoticed."""
        facts = [self.endpoint.url.rstrip("/"), self.name, self.encoder.hash, self.scoring]
        return hashlib.blake2b(json.dumps(facts).encode(), digest_size=16).hexdigest()

    def answer(self, questions: Sequence[Question], token_budget: int) -> Iterator[tuple[int, Answer]]:
        """Answer questions, several at once. Yields (position, answer) as they arrive. The server makes its own batches.

        Raises:
            FlanlabError: the server fails or refuses, or its tokens cannot be assigned.
        """
        pool = ThreadPoolExecutor(self.endpoint.parallel)
        try:
            waiting = {pool.submit(self._reply, question): place for place, question in enumerate(questions)}
            for done in as_completed(waiting):
                yield waiting[done], done.result()
        except BaseException:
            self.completions.stop()
            raise
        finally:
            pool.shutdown(cancel_futures=True)

    def _reply(self, question: Question) -> Answer:
        scores: list[list[float]] = []
        if question.options and self.scoring == "log-probabilities":
            score = _score_ids if self.knows_tokens else _score_text
            scores = score(self.completions, question)
        text = self._generate(question) if question.max_new_tokens else ""
        with_end = [math.fsum(option) for option in scores]
        # The end token counts in option_tokens, whether it was scored or not.
        without = [math.fsum(option[:-1]) for option in scores] if self.knows_tokens else with_end
        lengths = [len(option) + (not self.knows_tokens) for option in scores]
        return Answer(with_end, without, lengths or [len(option) for option in question.options], text)

    def _generate(self, question: Question) -> str:
        """Greedily generated text. If the answer is one line: the first line with text."""
        one_line = bool(question.line_breaks)
        payload = {"prompt": _sendable(question.prompt, self.encoder), "max_tokens": question.max_new_tokens, "temperature": 0}
        text = self.completions.complete(payload | {"stop": ["\n"]} if one_line else payload, _text)
        if one_line and not text.strip():
            # It began with a line break, at which the server stopped.
            text = self.completions.complete(payload, _text)
        return (text.strip().split("\n")[0] if one_line else text).strip()


def open_remote_model(name: str, endpoint: Endpoint, kept: Path) -> RemoteModel:
    """Find out with a few small requests how a model behind an endpoint can be scored.

    Args:
        name: the server's name of the model.
        endpoint: the server.
        kept: file for the responses.

    Raises:
        FlanlabError: the server or model does not exist, or the tokenizer is not the model's.
    """
    encoder = load_encoder(endpoint.tokenizer) if endpoint.tokenizer else CharacterEncoder()
    if isinstance(encoder, SeparateTextEncoder):
        raise FlanlabError(
            f"{endpoint.tokenizer} is an encoder-decoder model, which does not continue a text, as endpoints must.",
            hint="Evaluate it from its folder or Hub id, without --endpoint.",
        )
    completions = Completions(endpoint, name, kept)
    reason = _why_not_ranked(completions, encoder)
    scoring: Scoring = "generation" if reason else "log-probabilities"
    return RemoteModel(name, endpoint, encoder, scoring, reason, completions)


def _why_not_ranked(completions: Completions, encoder: Encoder) -> str:
    """Why options cannot be ranked by log-probabilities. Empty if they can.

    A server may also return log-probabilities with the wrong tokens, as llama-cpp-python does for models without a start token.
    So the one generated token is checked twice, with and without the echoed prompt.
    """
    prompt = _sendable(encoder.encode(_PROBE, [], "baseline").prompt, encoder)
    plain = {"prompt": prompt, "max_tokens": 1, "temperature": 0}
    try:
        echoed = completions.complete(_echo_request(prompt), dict, _PROBE_ATTEMPTS)
        generated = completions.complete(plain | {"logprobs": 1}, dict, _PROBE_ATTEMPTS)
    except RefusedError as error:
        if error.status not in _UNABLE:
            raise
        try:
            completions.complete(plain, dict)
        except RefusedError as other:
            if isinstance(prompt, list):
                other.hint += " If it accepts no token ids, leave out --tokenizer."
            raise
        return f"the server does not give log-probabilities of a prompt ({error.message})"
    one, other_one = _log_probabilities(echoed), _log_probabilities(generated)
    if not one or not other_one or len(one) < _PROBE_TOKENS:
        return "the server does not give log-probabilities of a prompt"
    if isinstance(prompt, list) and _PROBE not in _text(echoed):
        raise FlanlabError(
            f"The tokenizer is not the one of the model behind the endpoint: a prompt came back as {_text(echoed)[:80]!r}.",
            hint="Name the model's own tokenizer with --tokenizer, or leave it out.",
        )
    if one[-1] is None or other_one[-1] is None or abs(one[-1] - other_one[-1]) > _TOLERANCE:
        return "the server returns a prompt's log-probabilities with the wrong tokens"
    return ""


def _sendable(ids: list[int], encoder: Encoder) -> str | list[int]:
    return encoder.decode(ids) if isinstance(encoder, CharacterEncoder) else ids


def _echo_request(prompt: str | list[int]) -> dict[str, Any]:
    # One token is generated: some servers refuse 0, and others read it as "no limit".
    return {"prompt": prompt, "max_tokens": 1, "temperature": 0, "echo": True, "logprobs": 1}


def _text(response: Mapping[str, Any]) -> str:
    return str(response["choices"][0]["text"])


def _log_probabilities(response: Mapping[str, Any]) -> list[float | None] | None:
    found = _logprobs(response).get("token_logprobs")
    is_usable = isinstance(found, list) and all(
        value is None or isinstance(value, float) or (type(value) is int and abs(value) <= -_LEAST) for value in found
    )
    return found if is_usable else None


def _logprobs(response: Mapping[str, Any]) -> Mapping[str, Any]:
    """The server's data about tokens. Empty if there is none, or in an unknown form."""
    found = response["choices"][0].get("logprobs")
    return found if isinstance(found, dict) else {}


def _score_ids(completions: Completions, question: Question) -> list[list[float]]:
    """Log-probability of each token of each option, with the end token last. The answer's tokens are found by count."""
    scores = []
    for option in question.options:
        sent = question.prompt + option
        read = partial(_counted_tokens, sent=len(sent), join=len(question.prompt))
        scores.append(completions.complete(_echo_request(sent), read))
    return scores


def _counted_tokens(response: Mapping[str, Any], sent: int, join: int) -> list[float]:
    """The log-probabilities of a response after those of the prompt, if there are as many as tokens were sent and generated."""
    found = _log_probabilities(response) or []
    usage = response.get("usage")
    counted = usage.get("completion_tokens") if isinstance(usage, dict) else None
    generated = counted if isinstance(counted, int) else 1
    if len(found) != sent + generated:
        raise FlanlabError(
            f"The server returned {len(found)} log-probabilities for {sent} tokens sent and {generated} generated.",
            hint="Leave out --tokenizer: text is then sent, and tokens are found by their positions in it.",
        )
    return _numbers(found[join:sent])


def _score_text(completions: Completions, question: Question) -> list[list[float]]:
    """Log-probability of each token of each option. The answer's tokens are found by their positions in the text.

    As in training, prompt and answer are split at their boundary, or before the token that spans it in any of the options.
    """
    join = len(question.prompt)
    found = []
    for option in question.options:
        text = CharacterEncoder().decode(question.prompt + option)
        read = partial(_placed_tokens, text=text, join=join)
        placed = completions.complete(_echo_request(text), read)
        found.append([token for token in placed if token.start < len(text)])
    begin = min((token.start for tokens in found for token in tokens if token.stop > join), default=join)
    return [_numbers([token.value for token in tokens if token.start >= begin]) for tokens in found]


class _Token(NamedTuple):
    """A returned token: its position in the sent text, and its log-probability."""

    start: int
    stop: int
    value: float | None


def _placed_tokens(response: Mapping[str, Any], text: str, join: int) -> list[_Token]:
    """The tokens of a response with their positions in the sent text.

    The server's positions are used if the answer is found there. Otherwise the tokens' lengths are added up. Some servers put a
    start token in front that is not in the text.
    """
    choice = _logprobs(response)
    tokens = [token if isinstance(token, str) else "" for token in _listed(choice.get("tokens"))]
    offsets = [place for place in _listed(choice.get("text_offset")) if type(place) is int]
    values = _log_probabilities(response) or []
    counted = list(accumulate((len(token) for token in tokens), initial=0))[:-1]
    shift = "".join(tokens).rfind(text[max(join - _TAIL, 0) :]) - max(join - _TAIL, 0)
    for starts in (offsets, [start - shift for start in counted]):
        if tokens and len(starts) == len(tokens) == len(values):
            placed = [_Token(*one) for one in zip(starts, [*starts[1:], len(text)], values, strict=True)]
            share = [number for number, place in enumerate(placed) if place.stop > join and place.start < len(text)]
            if "".join(tokens[number] for number in share) == text[placed[share[0]].start if share else join :]:
                _numbers([placed[number].value for number in share])
                return placed
    raise FlanlabError(
        f"The answer {text[join:]!r} was not found among the tokens that the server returned.",
        hint="Name the model's tokenizer with --tokenizer: the answer's tokens are then found by count.",
    )


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _numbers(values: Sequence[float | None]) -> list[float]:
    numbers: list[float] = []
    for value in values:
        # None, NaN, infinity, or what is no logarithm of a probability.
        if value is None or not _LEAST <= value <= _TOLERANCE:
            raise FlanlabError(
                f"The server did not return the log-probability of an answer's token, but {value}.",
                hint="Run the same command, which asks again. If it returns that once more, use another server.",
            )
        numbers.append(float(value))
    return numbers
