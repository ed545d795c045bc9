"""A server on loopback that answers `/v1/completions` as OpenAI's API does, with a tiny model; and fails when told to."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from tests.tiny import stock_model

Fault = Callable[[BaseHTTPRequestHandler], None]
"""What happens to a request in place of an answer."""


@dataclass
class Served:
    """A running server: how it behaves, and what it was asked."""

    url: str = ""
    faults: list[Fault] = field(default_factory=list)
    """For the next requests, the first one first."""
    fails_after: int | None = None
    """So many requests are answered; the others are refused."""
    log_probabilities: bool = True
    takes_ids: bool = True
    start_token: bool = False
    """Show a start token in front of every text, which the model does not read."""
    misplaced: bool = False
    """Log-probabilities of an echoed prompt stand one token too early."""
    says: str | None = None
    """Generated whatever is asked, in place of the model's own words."""
    asked: list[dict[str, Any]] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)
    answered: list[str] = field(default_factory=list)
    most_at_once: int = 0


def fails(status: int, body: Any = "busy", **headers: str) -> Fault:
    """Answer with an error."""

    def fault(handler: BaseHTTPRequestHandler) -> None:
        text = json.dumps({"error": {"message": body}}).encode()
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(text)))
        handler.end_headers()
        handler.wfile.write(text)

    return fault


def drops(handler: BaseHTTPRequestHandler) -> None:
    """Hang up without a word."""
    handler.close_connection = True
    handler.connection.close()


@contextmanager
def serve(folder: Path, **behaviour: Any) -> Iterator[Served]:
    """Serve the model in `folder` for the length of a block."""
    served = Served(**behaviour)
    model, tokenizer = stock_model(folder), AutoTokenizer.from_pretrained(folder)
    lock, busy = threading.Lock(), [0]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_POST(self) -> None:
            payload = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                busy[0] += 1
                served.most_at_once = max(served.most_at_once, busy[0])
                served.asked.append(payload)
                served.headers.append(dict(self.headers))
                fault = served.faults.pop(0) if served.faults else None
                if served.fails_after is not None:
                    served.fails_after -= 1
                    fault = fails(402, "out of credit") if served.fails_after < 0 else fault
            try:
                if self.path != "/v1/completions":
                    fault = fails(404, f"no {self.path} here")
                elif isinstance(payload["prompt"], list) and not served.takes_ids:
                    fault = fails(422, "prompt: a text is expected")
                if fault is not None:
                    fault(self)
                    return
                with lock, torch.inference_mode():
                    content = json.dumps(complete(payload)).encode()
                    served.answered.append(json.dumps(payload, sort_keys=True))
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
            finally:
                with lock:
                    busy[0] -= 1

    def complete(payload: dict[str, Any]) -> dict[str, Any]:
        prompt = payload["prompt"]
        sent = prompt if isinstance(prompt, list) else tokenizer(prompt, add_special_tokens=False)["input_ids"]
        ids, text = list(sent), ""
        while len(ids) < len(sent) + payload["max_tokens"]:
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
            text = tokenizer.decode(ids[len(sent) :], skip_special_tokens=True)
            if ids[-1] == tokenizer.eos_token_id or any(stop in text for stop in payload.get("stop", [])):
                break
        text = text if served.says is None else served.says
        for stop in payload.get("stop", []):
            text = text.split(stop)[0]
        shown = text
        if payload.get("echo"):
            shown = tokenizer.decode(sent) + text
        choice: dict[str, Any] = {"index": 0, "text": shown, "logprobs": None, "finish_reason": "length"}
        if "logprobs" in payload and served.log_probabilities:
            choice["logprobs"] = log_probabilities(ids, 0 if payload.get("echo") else len(sent))
        usage = {"prompt_tokens": len(sent), "completion_tokens": len(ids) - len(sent)}
        return {"object": "text_completion", "model": payload["model"], "choices": [choice], "usage": usage}

    def log_probabilities(ids: list[int], first: int) -> dict[str, Any]:
        logits = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        late = int(served.misplaced and first == 0)
        places = [place - 1 + late for place in range(first, len(ids))]
        values = [None if place < 0 else float(logits[place, token]) for place, token in zip(places, ids[first:], strict=True)]
        tokens = [tokenizer.decode([token]) for token in ids[first:]]
        offsets = [len(tokenizer.decode(ids[:place])) for place in range(first, len(ids))]
        if served.start_token:
            tokens, values, offsets = ["<s>", *tokens], [None, *values], [0, *(offset + 3 for offset in offsets)]
        return {"tokens": tokens, "token_logprobs": values, "text_offset": offsets, "top_logprobs": None}

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
