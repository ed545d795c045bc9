"""Targets: what a server of completions may answer. Replies are made in process; tests/completions_server.py has a real one."""

from __future__ import annotations

import copy
import functools
import json
import math
import os
import traceback
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import httpx2

from flanlab.data.encoding import TextEncoder
from flanlab.errors import FlanlabError
from flanlab.models import completions, remote
from flanlab.models.answering import Question
from flanlab.models.completions import Completions, Endpoint
from tests.fuzz.mutate import mutated_bytes, mutated_tree
from tests.fuzz.oracle import Case
from tests.tiny import make_tokenizer

_URL = "http://127.0.0.1:9/v1"
_STATUSES = (301, 302, 307, 400, 401, 403, 404, 408, 413, 418, 422, 429, 429, 429, 500, 500, 501, 502, 503, 504, 599, 204, 206)
_WAITS = (None, None, "0", "1", "-1", "1e9", "soon", "Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 99 Foo", "nan", "inf", "")
_VALUES: Any = ([None], [], [1e308], [-1e308], ["x"], [None, None], [math.nan], [math.inf], [10**400], [2.0], [True])
_ERRORS = (httpx2.ReadTimeout, httpx2.ConnectError, httpx2.ReadError, httpx2.RemoteProtocolError, httpx2.ConnectTimeout)


def reply(random: Random, folder: Path) -> Case:
    """A server that answers rightly at first, then in any other way (errors, redirects, cut, odd, endless replies), and rightly
    again when the same questions are asked once more. What it has answered rightly may not be asked again. Sometimes another
    process asks the same at the same time.
    """
    encoder = _encoder()  # made once, which takes a while
    right = random.choice((0, 1, 2, 2, 3, 4))
    faults = [random.randrange(7) for _ in range(random.choice((1, 2, 9)))]
    by_ids, two = random.random() < 0.4, random.random() < 0.1
    asked, answered, healed = [0], set(), [False]

    def answer(request: httpx2.Request) -> httpx2.Response:
        payload = json.loads(request.content)
        assert two or request.content not in answered, "asks what was answered"
        asked[0] += 1
        content = _completion(payload)
        number = asked[0] - right - 1
        if healed[0] or number < 0 or number >= len(faults):
            answered.add(request.content)
            return httpx2.Response(200, json=content)
        match faults[number]:
            case 0 | 1:
                wait = random.choice(_WAITS)
                headers = {} if wait is None else {"Retry-After": wait}
                body = random.choice((b"", b"busy", b'{"error": {"message": 7}}', b"[]", b'{"error": null}', b"\xff\xfe"))
                status = random.choice(_STATUSES)
                if status < 400:
                    headers["Location"] = "http://127.0.0.1:1/elsewhere"
                return httpx2.Response(status, headers=headers, content=body)
            case 2:
                raise random.choice(_ERRORS)("cut", request=request)
            case 3:
                return httpx2.Response(200, content=_pieces(random, json.dumps(content).encode(), request))
            case 4:
                return httpx2.Response(200, content=mutated_bytes(random, json.dumps(content).encode()))
            case 5:
                return httpx2.Response(200, json=_finite(mutated_tree(random, content)))
            case _:
                choice = content["choices"][0]
                for name in ("token_logprobs", "tokens", "text_offset"):
                    values = (choice["logprobs"] or {}).get(name) or []
                    if values and random.random() < 0.6:
                        place = random.randrange(len(values))
                        values[place : place + 1] = random.choice(_VALUES)
                return httpx2.Response(200, content=json.dumps(content))

    class InProcess(Completions):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self._client = httpx2.Client(transport=httpx2.MockTransport(answer))

        def _pause(self, seconds: float) -> None:
            pass  # nobody waits for a server that is not there

    def ask() -> None:
        model = None
        try:
            endpoint = Endpoint(_URL, tokenizer="one" if by_ids else None, parallel=1)
            model = remote.open_remote_model("a-model", endpoint, folder / "responses.sqlite")
            encoded = model.encoder.encode("Is it so?", ["yes", "no"], "instruction")
            line_breaks = model.encoder.newline_tokens
            questions = [
                Question(encoded.prompt, encoded.answers, 8, line_breaks=line_breaks),
                Question(encoded.prompt, [], 8),
            ]
            for _, found in model.answer(questions, 4096):
                assert isinstance(found.text, str)
                assert all(isinstance(score, float) and math.isfinite(score) for score in found.scores)
        finally:
            if model is not None:
                model.completions.close()

    def ask_again_after_an_error() -> None:
        try:
            ask()
        except FlanlabError:
            healed[0] = True
            try:
                ask()
            except FlanlabError as again:
                raise AssertionError("the same command does not go on") from again
            raise

    def action() -> None:
        (folder / "responses.sqlite").unlink(missing_ok=True)
        with (
            patch.object(remote, "Completions", InProcess),
            patch.object(remote, "load_encoder", lambda _: encoder),
            patch.object(completions, "_MOST_BYTES", 1 << 22),
        ):
            if not two:
                ask_again_after_an_error()
            elif other := os.fork():
                try:
                    ask_again_after_an_error()
                finally:
                    assert os.waitpid(other, 0)[1] == 0, "the other process fails"
            else:
                try:
                    with suppress(FlanlabError):
                        ask_again_after_an_error()
                    os._exit(0)
                finally:
                    traceback.print_exc()
                    os._exit(1)

    return Case(action, ("server", "127.0.0.1", "answer"), inside=folder)


def _pieces(random: Random, content: bytes, request: httpx2.Request) -> Iterator[bytes]:
    """A reply that comes in pieces: it is cut, or takes too long, or never ends."""
    yield content[: random.randrange(len(content))]
    if random.random() < 0.9:
        raise random.choice(_ERRORS)("cut", request=request)
    while True:
        yield b" " * (1 << 20)


@functools.cache
def _encoder() -> TextEncoder:
    return TextEncoder(make_tokenizer())


def _completion(payload: dict[str, Any]) -> dict[str, Any]:
    prompt, echo = payload["prompt"], bool(payload.get("echo"))
    if isinstance(prompt, str):
        tokens = [prompt[start : start + 3] for start in range(0, len(prompt), 3)] if echo else []
    else:
        tokens = [_encoder().decode([token]) for token in prompt] if echo else []
    tokens.append(".")
    shown = "".join(tokens)
    logprobs = None
    if "logprobs" in payload:
        offsets = [sum(map(len, tokens[:place])) for place in range(len(tokens))]
        values: list[float | None] = [-0.5] * len(tokens)
        if echo:
            values[0] = None
        logprobs = {"tokens": tokens, "token_logprobs": values, "text_offset": offsets}
    return copy.deepcopy(
        {"choices": [{"text": shown, "logprobs": logprobs, "index": 0}], "usage": {"prompt_tokens": 3, "completion_tokens": 1}}
    )


def _finite(tree: Any) -> Any:
    """The tree as JSON can send it."""
    return json.loads(
        json.dumps(tree, default=str).replace("NaN", "null").replace("-Infinity", "null").replace("Infinity", "null")
    )


TARGETS = {"server": reply}
