"""Targets: what a server of completions may answer. Replies are made in process; tests/completions_server.py has a real one."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from random import Random
from typing import Any

import httpx2

from flanlab.models import remote
from flanlab.models.answering import Question
from flanlab.models.completions import Completions, Endpoint
from tests.fuzz.mutate import mutated_bytes, mutated_tree
from tests.fuzz.oracle import Case

_URL = "http://127.0.0.1:9/v1"
_STATUSES = (301, 302, 307, 400, 401, 403, 404, 408, 413, 418, 422, 429, 429, 429, 500, 500, 501, 502, 503, 504, 599, 204, 206)
_WAITS = (None, None, "0", "1", "-1", "1e9", "soon", "Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 99 Foo", "nan", "inf", "")
_ERRORS = (httpx2.ReadTimeout, httpx2.ConnectError, httpx2.ReadError, httpx2.RemoteProtocolError, httpx2.ConnectTimeout)


def reply(random: Random, folder: Path) -> Case:
    """A server that answers rightly at first, and then in any other way: errors, cut or odd JSON, wrong lengths, redirects."""
    right = random.choice((0, 1, 2, 2, 3, 4))
    faults = [random.randrange(5) for _ in range(random.choice((1, 2, 9)))]
    asked = [0]

    def answer(request: httpx2.Request) -> httpx2.Response:
        payload = json.loads(request.content)
        asked[0] += 1
        content = _completion(payload)
        number = asked[0] - right - 1
        if number < 0 or number >= len(faults):
            return httpx2.Response(200, json=content)
        match faults[number]:
            case 0:
                wait = random.choice(_WAITS)
                headers = {} if wait is None else {"Retry-After": wait}
                body = random.choice((b"", b"busy", b'{"error": {"message": 7}}', b"[]", b'{"error": null}', b"\xff\xfe"))
                status = random.choice(_STATUSES)
                if status < 400:
                    headers["Location"] = "http://127.0.0.1:1/elsewhere"
                return httpx2.Response(status, headers=headers, content=body)
            case 1:
                raise random.choice(_ERRORS)("cut", request=request)
            case 2:
                return httpx2.Response(200, content=mutated_bytes(random, json.dumps(content).encode()))
            case 3:
                return httpx2.Response(200, json=_finite(mutated_tree(random, content)))
            case _:
                choice = content["choices"][0]
                for name in ("token_logprobs", "tokens", "text_offset"):
                    values = (choice["logprobs"] or {}).get(name) or []
                    if values and random.random() < 0.6:
                        place = random.randrange(len(values))
                        values[place : place + 1] = random.choice(([None], [], [1e308], [-1e308], ["x"], [None, None]))
                return httpx2.Response(200, json=content)

    def action() -> None:
        completions_class = remote.Completions
        (folder / "responses.sqlite").unlink(missing_ok=True)

        class InProcess(Completions):
            def __init__(self, *arguments: Any) -> None:
                super().__init__(*arguments)
                self._client = httpx2.Client(transport=httpx2.MockTransport(answer))

            def _pause(self, seconds: float) -> None:
                pass  # nobody waits for a server that is not there

        remote.Completions = InProcess  # type: ignore[misc]
        model = None
        try:
            model = remote.open_remote_model("a-model", Endpoint(_URL, parallel=1), folder / "responses.sqlite")
            prompt, options = [ord(c) for c in "Is it so?\n"], [[ord(c) for c in word] + [-1] for word in ("yes", "no")]
            questions = [Question(prompt, options, 8, line_breaks=frozenset({10})), Question(prompt, [], 8)]
            for _, found in model.answer(questions, 4096):
                assert isinstance(found.text, str)
                assert all(isinstance(score, float) for score in found.scores)
        finally:
            remote.Completions = completions_class  # type: ignore[misc]
            if model is not None:
                model.completions.close()

    return Case(action, ("server", "127.0.0.1", "answer"), inside=folder)


def _completion(payload: dict[str, Any]) -> dict[str, Any]:
    text = str(payload["prompt"])
    shown = text + "." if payload.get("echo") else "."
    tokens = [shown[start : start + 3] for start in range(0, len(shown) - 1, 3)] if payload.get("echo") else []
    tokens.append(".")
    tokens[-2:-1] = [shown[3 * (len(tokens) - 2) : -1]] if len(tokens) > 1 else []
    logprobs = None
    if "logprobs" in payload:
        offsets = [sum(map(len, tokens[:place])) for place in range(len(tokens))]
        values: list[float | None] = [-0.5] * len(tokens)
        if payload.get("echo"):
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
