"""Requests: repeated, paced, never sent twice, and silent about the key."""

from __future__ import annotations

import contextlib
import sqlite3
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from flanlab.errors import FlanlabError
from flanlab.models import completions as module
from flanlab.models.completions import Completions, Endpoint, RefusedError
from tests.completions_server import Fault, Served, drops, fails, serve

PAYLOAD = {"prompt": "The soup was", "max_tokens": 2, "temperature": 0}
KEY = "sk-very-secret-0123456789"


@pytest.fixture
def served(tiny_folder: Path) -> Iterator[Served]:
    with serve(tiny_folder) as running:
        yield running


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long is waited, without waiting."""
    seconds: list[float] = []
    monkeypatch.setattr(Completions, "_pause", lambda self, wait: seconds.append(wait) if wait > 0 else None)
    monkeypatch.setattr(module.time, "monotonic", lambda: 1000.0)
    return seconds


def client(served: Served, tmp_path: Path, **changes: Any) -> Completions:
    return Completions(Endpoint(served.url, **changes), "tiny", tmp_path / "kept.sqlite")


@pytest.mark.parametrize("fault", [fails(429), fails(500), fails(522), drops], ids=["429", "500", "522", "dropped"])
def test_passing_failures_are_got_past(fault: Any, served: Served, tmp_path: Path, waits: list[float]) -> None:
    served.faults = [fault, fault, fault]
    response = client(served, tmp_path).complete(PAYLOAD, dict)
    assert isinstance(response["choices"][0]["text"], str)
    assert len(served.asked) == 4
    assert [0.5 <= waits[0] <= 1, 1 <= waits[1] <= 2, 2 <= waits[2] <= 4] == [True] * 3


def test_something_else_than_a_completion_is_tried_again(served: Served, tmp_path: Path, waits: list[float]) -> None:
    served.faults = [fails(200, "a page of a proxy")]
    assert client(served, tmp_path).complete(PAYLOAD, dict)["model"] == "tiny"
    served.faults = [fails(200, "a page of a proxy")] * 8
    with pytest.raises(FlanlabError, match=r"not a completion: .*a page of a proxy"):
        client(served, tmp_path).complete(PAYLOAD | {"max_tokens": 3}, dict)


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_the_server_says_how_long_to_wait(form: str, served: Served, tmp_path: Path, waits: list[float]) -> None:
    header = "90" if form == "seconds" else format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    served.faults = [fails(429, Retry_After=header)]
    client(served, tmp_path).complete(PAYLOAD, dict)
    assert max(waits) == pytest.approx(90, abs=2)


@pytest.mark.parametrize("header", ["soon", "-5", "nan", ""])
def test_a_senseless_time_to_wait_is_passed_over(header: str, served: Served, tmp_path: Path, waits: list[float]) -> None:
    served.faults = [fails(429, Retry_After=header)]
    client(served, tmp_path).complete(PAYLOAD, dict)
    assert max(waits) <= 1


def test_lasting_failure_is_an_error(served: Served, tmp_path: Path, waits: list[float]) -> None:
    served.faults = [fails(503, "model is loading")] * 20
    with pytest.raises(RefusedError, match="answers 503: model is loading"):
        client(served, tmp_path).complete(PAYLOAD, dict)
    assert len(served.asked) == 8
    assert max(waits) <= 60


@pytest.mark.parametrize(("status", "hint"), [(400, "server's message"), (401, "OPENAI_API_KEY"), (404, "--model")])
def test_refusals_are_not_repeated(status: int, hint: str, served: Served, tmp_path: Path) -> None:
    served.faults = [fails(status, "no")]
    with pytest.raises(RefusedError, match=f"answers {status}: no") as caught:
        client(served, tmp_path).complete(PAYLOAD, dict)
    assert hint in caught.value.hint
    assert len(served.asked) == 1


def test_redirects_are_not_followed(served: Served, tmp_path: Path) -> None:
    """Nobody but the server that is named gets the prompts, and the key."""
    served.faults = [fails(307, "moved", Location=f"{served.url}/elsewhere")]
    with pytest.raises(RefusedError, match="answers 307: moved") as caught:
        client(served, tmp_path).complete(PAYLOAD, dict)
    assert f"without /completions: {served.url}/elsewhere" in caught.value.hint
    assert len(served.asked) == 1


def sends(*pieces: bytes, length: int, wait: float = 0.0) -> Fault:
    """Send the beginning of a reply of some length, piece by piece; then hang up."""

    def fault(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(length))
        handler.end_headers()
        with contextlib.suppress(OSError):
            for piece in pieces:
                handler.wfile.write(piece)
                time.sleep(wait)
        handler.close_connection = True

    return fault


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (sends(b'{"choices": [', length=1000), "could not be reached"),
        (sends(*[b" " * 500] * 100, length=10**9), "not a completion"),
        (sends(*[b"."] * 100, length=100, wait=0.02), "not a completion"),
    ],
    ids=["cut", "endless", "slow"],
)
def test_cut_and_endless_and_slow_replies_are_tried_again(
    fault: Fault, message: str, served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Completions, "_pause", lambda *_: None)
    monkeypatch.setattr(module, "_MOST_BYTES", 10_000)
    monkeypatch.setattr(module, "_LONGEST_REPLY", 0.5)
    served.faults = [fault]
    assert client(served, tmp_path).complete(PAYLOAD, dict)["model"] == "tiny"
    served.faults = [fault] * 8
    with pytest.raises(FlanlabError, match=message):
        client(served, tmp_path).complete(PAYLOAD | {"max_tokens": 3}, dict)


def test_unreachable_server(tmp_path: Path, waits: list[float]) -> None:
    nowhere = Completions(Endpoint("http://127.0.0.1:9/v1"), "tiny", tmp_path / "kept.sqlite")
    with pytest.raises(FlanlabError, match=r"127\.0\.0\.1:9/v1 could not be reached") as caught:
        nowhere.complete(PAYLOAD, dict)
    assert "server runs" in caught.value.hint


def test_rate_is_kept(served: Served, tmp_path: Path, waits: list[float]) -> None:
    """With the clock standing still, the n-th request waits n intervals."""
    slow = client(served, tmp_path, requests_per_minute=30)
    for number in range(4):
        slow.complete(PAYLOAD | {"max_tokens": number + 1}, dict)
    assert waits == [2, 4, 6]


def test_responses_are_kept_by_everything_that_shapes_them(served: Served, tmp_path: Path) -> None:
    first = client(served, tmp_path)
    response = first.complete(PAYLOAD, dict)
    first.close()
    again = client(served, tmp_path)
    assert again.complete(dict(reversed(PAYLOAD.items())), dict) == response
    assert len(served.asked) == 1
    again.complete(PAYLOAD | {"max_tokens": 1}, dict)
    Completions(Endpoint(served.url), "other", tmp_path / "kept.sqlite").complete(PAYLOAD, dict)
    elsewhere = Endpoint(served.url.replace("127.0.0.1", "localhost"))
    Completions(elsewhere, "tiny", tmp_path / "kept.sqlite").complete(PAYLOAD, dict)
    assert len(served.asked) == 4


def test_what_is_asked_twice_at_once_is_sent_once(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    send = Completions._send
    monkeypatch.setattr(Completions, "_send", lambda self, *asked: time.sleep(0.2) or send(self, *asked))
    asked = client(served, tmp_path)
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda one: asked.complete(one, dict), [PAYLOAD, PAYLOAD | {"max_tokens": 3}] * 4))
    assert replies[0] == replies[2] != replies[1]
    assert len(served.asked) == 2
    assert not asked._under_way


def test_damaged_file_of_responses(served: Served, tmp_path: Path) -> None:
    (tmp_path / "kept.sqlite").write_bytes(b"damaged" * 1000)
    with pytest.raises(FlanlabError, match=r"kept\.sqlite: the responses kept there cannot be read") as caught:
        client(served, tmp_path)
    assert "Delete the file" in caught.value.hint


def test_file_of_responses_damaged_within(served: Served, tmp_path: Path) -> None:
    """Its beginning is whole, as after a crash of the machine."""
    first = client(served, tmp_path)
    first.complete(PAYLOAD, dict)
    first.close()
    file = sqlite3.connect(tmp_path / "kept.sqlite")
    file.execute("UPDATE responses SET response = x'00'")
    file.commit()
    file.close()
    with pytest.raises(FlanlabError, match=r"kept\.sqlite: the responses kept there cannot be read"):
        client(served, tmp_path).complete(PAYLOAD, dict)


def test_a_response_that_cannot_be_kept_is_no_damage(served: Served, tmp_path: Path) -> None:
    full = client(served, tmp_path)
    full._kept.execute("PRAGMA max_page_count = 1")
    full._kept.execute("PRAGMA query_only = ON")
    with pytest.raises(FlanlabError, match="a response could not be saved") as caught:
        full.complete(PAYLOAD, dict)
    assert "Delete" not in caught.value.hint


def test_a_file_of_responses_that_another_program_holds_is_no_damage(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = sqlite3.connect
    holder = connect(tmp_path / "kept.sqlite", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    monkeypatch.setattr(
        module.sqlite3, "connect", lambda *arguments, **options: connect(*arguments, **options | {"timeout": 0})
    )
    with pytest.raises(FlanlabError, match="database is locked") as caught:
        client(served, tmp_path)
    assert "Delete" not in caught.value.hint
    holder.close()


def test_stopped_requests_fail(served: Served, tmp_path: Path) -> None:
    stopped = client(served, tmp_path)
    stopped.stop()
    with pytest.raises(FlanlabError, match="stopped"):
        stopped.complete(PAYLOAD, dict)
    assert served.asked == []


@pytest.mark.parametrize("address", ["", "127.0.0.1:8000/v1", "ftp://host/v1", "http://", "http://[::1", "no address"])
def test_addresses_that_are_none(address: str, tmp_path: Path) -> None:
    with pytest.raises(FlanlabError, match="not a web address"):
        Completions(Endpoint(address), "tiny", tmp_path / "kept.sqlite")


@pytest.mark.parametrize("address", [f"http://me:{KEY}@host/v1", f"http://host/v1?key={KEY}", f"http://host/v1#{KEY}"])
def test_secrets_in_an_address_are_refused_and_not_repeated(address: str, tmp_path: Path) -> None:
    with pytest.raises(FlanlabError, match="must not contain a password") as caught:
        Completions(Endpoint(address), "tiny", tmp_path / "kept.sqlite")
    assert KEY not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("variable", [None, "MY_KEY"])
def test_key_goes_into_the_header_alone(
    variable: str | None, served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(1)
    monkeypatch.setenv(variable or "OPENAI_API_KEY", KEY)
    with_key = client(served, tmp_path, key_variable=variable)
    with_key.complete(PAYLOAD, dict)
    assert served.headers[0]["Authorization"] == f"Bearer {KEY}"
    served.faults = [fails(401, f"Incorrect API key provided: {KEY}")]
    with pytest.raises(FlanlabError, match=r"provided: \[key\]") as caught:
        with_key.complete(PAYLOAD | {"max_tokens": 1}, dict)
    with_key.close()
    shown = "".join(traceback.format_exception(caught.value)) + caplog.text
    files = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert KEY not in shown
    assert KEY.encode() not in files


def test_key_that_a_server_sends_back_is_not_kept(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    echoing = client(served, tmp_path)
    response = echoing.complete({**PAYLOAD, "prompt": f"Is {KEY}", "echo": True}, dict)
    assert KEY not in str(response)
    echoing.close()
    assert client(served, tmp_path).complete({**PAYLOAD, "prompt": f"Is {KEY}", "echo": True}, dict) == response


@pytest.mark.parametrize("key", [f"{KEY}\n{KEY}", f"{KEY} {KEY}", f"{KEY}\N{SNOWMAN}"])
def test_what_cannot_be_a_key_is_not_shown(key: str, served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(FlanlabError, match="OPENAI_API_KEY holds no valid key") as caught:
        client(served, tmp_path)
    assert KEY not in "".join(traceback.format_exception(caught.value))


def test_named_key_must_be_there(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    client(served, tmp_path).complete(PAYLOAD, dict)
    assert "Authorization" not in served.headers[0]
    with pytest.raises(FlanlabError, match="MY_KEY is not set"):
        client(served, tmp_path, key_variable="MY_KEY")
