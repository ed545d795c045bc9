"""Requests to an OpenAI-compatible `/completions`: with retries, a rate limit, and a cache of responses.

Each response is kept in a SQLite file under a hash of the endpoint, the model and the payload. So an evaluation that was killed
and is started again sends only the missing requests. The key comes from the environment, and is only written into the
`Authorization` header.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import sqlite3
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import httpx2

from flanlab.errors import FlanlabError

Value = TypeVar("Value")

_KEY_VARIABLE = "OPENAI_API_KEY"
_TIMEOUT = httpx2.Timeout(300, connect=20)
"""Seconds. A busy server queues requests before answering them."""
_LONGEST_REPLY = 1800.0
"""Seconds. The time-out above begins again with each byte."""
_MOST_BYTES = 1 << 28
"""Of a reply. Those of long prompts with log-probabilities have some millions."""
_ATTEMPTS = 8
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 60.0
"""Seconds between attempts: doubled each time, then a random share between half and all of it, so that clients spread out."""
_LONGEST_ASKED = 3600.0
"""Longest Retry-After in seconds."""
_SHORTEST_SECRET = 8
_PASSING = frozenset({408, 409, 425, 429, *range(500, 600)} - {501, 505})
"""Statuses after which a retry may succeed."""


@dataclass(frozen=True)
class Endpoint:
    """A server, and how to use it."""

    url: str
    """Base address, such as http://127.0.0.1:8000/v1."""
    tokenizer: str | None = None
    """Folder or Hub id of the model's tokenizer. None: send text."""
    requests_per_minute: float | None = None
    parallel: int = 8
    """Largest number of requests at once."""
    key_variable: str | None = None
    """Environment variable with the key. None: OPENAI_API_KEY, if set."""


class RefusedError(FlanlabError):
    """The server refused a request; `status` is the HTTP status."""

    def __init__(self, message: str, *, hint: str, status: int) -> None:
        super().__init__(message, hint=hint)
        self.status = status


class Completions:
    """`POST {endpoint}/completions` for one model. Safe for several threads."""

    def __init__(self, endpoint: Endpoint, model: str, kept: Path) -> None:
        """Responses are kept in the SQLite file `kept`.

        Raises:
            FlanlabError: the address is invalid, or the key is missing or invalid.
        """
        self._url = _checked_url(endpoint.url)
        self._model = model
        self._key, self._key_variable = _key(endpoint.key_variable), endpoint.key_variable or _KEY_VARIABLE
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        limits = httpx2.Limits(max_connections=endpoint.parallel, max_keepalive_connections=endpoint.parallel)
        self._client = httpx2.Client(headers=headers, timeout=_TIMEOUT, limits=limits)
        self._interval = 60 / endpoint.requests_per_minute if endpoint.requests_per_minute else 0.0
        self._next_start = 0.0
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        # A thread that asks what another is asking waits, and finds the response kept. A lock is gone when nobody uses it.
        self._under_way = WeakValueDictionary[str, Any]()
        kept.parent.mkdir(parents=True, exist_ok=True)
        self._file = kept
        with self._keeping():
            self._kept = sqlite3.connect(kept, check_same_thread=False, isolation_level=None, timeout=60)
            # A killed process loses nothing. Only a crash of the machine could lose the last responses.
            self._kept.execute("PRAGMA synchronous=OFF")
            self._kept.execute("CREATE TABLE IF NOT EXISTS responses (request TEXT PRIMARY KEY, response BLOB NOT NULL)")

    def complete(
        self,
        payload: Mapping[str, Any],
        read: Callable[[dict[str, Any]], Value],
        attempts_at_500: int = _ATTEMPTS,
    ) -> Value:
        """What `read` makes of the response to a payload (without `model`), from the file of responses if it is there.

        `read` raises an error for a response that cannot be used. A new one is then not kept, so that the same command asks
        again. `attempts_at_500` limits the attempts when the server answers 500, which may mean that it cannot do this.

        Raises:
            RefusedError: the server answers with an error, at once or after all retries.
            FlanlabError: the server cannot be reached, or its response is not a completion.
        """
        body = json.dumps({"model": self._model, **payload}, sort_keys=True, ensure_ascii=False)
        request = hashlib.blake2b(f"{self._url}\n{body}".encode(), digest_size=16).hexdigest()
        with self._lock:
            under_way = self._under_way.setdefault(request, threading.Lock())
        with under_way:
            with self._lock, self._keeping():
                found = self._kept.execute("SELECT response FROM responses WHERE request = ?", (request,)).fetchone()
                response = zlib.decompress(found[0]).decode() if found else ""
            if not found:
                response = self._hidden(self._send(body, attempts_at_500))
            value = read(json.loads(response))
            if not found:
                packed = zlib.compress(response.encode())
                with self._lock, self._keeping():
                    self._kept.execute("INSERT OR REPLACE INTO responses VALUES (?, ?)", (request, packed))
        return value

    @contextmanager
    def _keeping(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            # The file itself is intact; for example, the disk is full.
            raise FlanlabError(
                f"{self._file}: a response could not be saved ({error}).",
                hint="Check the free disk space and the file's permissions. The same command then resumes.",
            ) from error
        except (sqlite3.DatabaseError, zlib.error) as error:
            raise FlanlabError(
                f"{self._file}: the responses kept there cannot be read ({error}).",
                hint="Delete the file. Its requests are then sent again.",
            ) from error

    def stop(self) -> None:
        """Let waiting and future requests fail, because their results are no longer needed."""
        self._stopped.set()

    def close(self) -> None:
        """Close the connections and the file."""
        self._client.close()
        self._kept.close()

    def _send(self, body: str, attempts_at_500: int) -> str:
        failure: FlanlabError | None = None
        for attempt in range(_ATTEMPTS):
            if failure is not None:
                longest = min(_FIRST_WAIT * 2 ** (attempt - 1), _LONGEST_WAIT)
                self._pause(random.uniform(longest / 2, longest))
            self._await_turn()
            try:
                response, text = self._post(body)
            except (httpx2.TransportError, httpx2.DecodingError) as error:
                failure = FlanlabError(
                    f"{self._url} could not be reached: {self._hidden(str(error)) or type(error).__name__}",
                    hint="Check that the server runs and that the address is right. The same command then resumes.",
                )
                continue
            if response.status_code == 200:
                if _is_completion(text):
                    return text
                failure = FlanlabError(
                    f"{self._url}/completions sent something that is not a completion: {self._hidden(text[:200])}",
                    hint="Give the address of an OpenAI-compatible server, which usually ends in /v1.",
                )
                continue
            failure = self._refusal(response, text)
            if response.status_code not in _PASSING or (response.status_code == 500 and attempt + 1 >= attempts_at_500):
                break
            if wait := _retry_after(response.headers.get("Retry-After")):
                with self._lock:
                    self._next_start = max(self._next_start, time.monotonic() + wait)
        assert failure is not None
        # Raised here, so that no chained exception contains the request, and with it the key.
        raise failure

    def _post(self, body: str) -> tuple[httpx2.Response, str]:
        """A response and its text. One that is too long, or comes too slowly, is cut."""
        started = time.monotonic()
        content = bytearray()
        headers = {"Content-Type": "application/json"}
        with self._client.stream("POST", f"{self._url}/completions", content=body.encode(), headers=headers) as response:
            for piece in response.iter_bytes():
                content += piece
                if len(content) > _MOST_BYTES or time.monotonic() - started > _LONGEST_REPLY:
                    break
        return response, content.decode(errors="replace")

    def _await_turn(self) -> None:
        """Wait for the rate limit, and for the time that the server asked for."""
        with self._lock:
            now = time.monotonic()
            start = max(now, self._next_start)
            self._next_start = start + self._interval
        self._pause(start - now)

    def _pause(self, seconds: float) -> None:
        if self._stopped.wait(max(seconds, 0.0)):
            raise FlanlabError("The evaluation was stopped.", hint="The same command resumes it.")

    def _refusal(self, response: httpx2.Response, text: str) -> RefusedError:
        message = f"{self._url}/completions answers {response.status_code}: {self._hidden(_error_message(text))}"
        if response.status_code in (401, 403):
            hint = f"Put a key that the server accepts into the environment variable {self._key_variable}."
        elif response.status_code == 404:
            hint = "Compare --model with the names that the server serves, and check the end of --endpoint, usually /v1."
        elif 300 <= response.status_code < 400:
            moved = self._hidden(response.headers.get("Location", "")[:200]) or "it does not say where"
            hint = f"Give the address to which the server has moved with --endpoint, without /completions: {moved}."
        else:
            hint = "See the server's message. The same command resumes and sends only what is missing."
        return RefusedError(message, hint=hint, status=response.status_code)

    def _hidden(self, text: str) -> str:
        """The server's text, without the key in case it was sent back."""
        # A word such as "none", for servers without a key, is not a secret and may occur.
        return text.replace(self._key, "[key]") if self._key and len(self._key) >= _SHORTEST_SECRET else text


def _checked_url(text: str) -> str:
    try:
        url = httpx2.URL(text)
    except httpx2.InvalidURL:
        url = httpx2.URL("")
    if url.scheme not in ("http", "https") or not url.host:
        raise FlanlabError("--endpoint is not a web address.", hint="Give it as http://127.0.0.1:8000/v1.")
    if url.userinfo or url.query or url.fragment:
        # The address is written into results, so it must not contain secrets.
        raise FlanlabError(
            "--endpoint must not contain a password, query or fragment.",
            hint=f"Put the key into the environment variable {_KEY_VARIABLE}, or name another with --api-key-variable.",
        )
    return text.rstrip("/")


def _key(variable: str | None) -> str | None:
    key = os.environ.get(variable or _KEY_VARIABLE, "").strip()
    if not key and variable is not None:
        raise FlanlabError(f"The environment variable {variable} is not set.", hint=f"Put the server's key into {variable}.")
    # Such a header would be refused, with a message that shows it.
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise FlanlabError(
            f"The environment variable {variable or _KEY_VARIABLE} holds no valid key: it has spaces or special characters.",
            hint="Set it to the key alone.",
        )
    return key or None


def _is_completion(text: str) -> bool:
    try:
        return isinstance(json.loads(text)["choices"][0]["text"], str)
    except (ValueError, KeyError, IndexError, TypeError):
        return False


def _error_message(text: str) -> str:
    """The message of a server's error, from any of the usual fields."""
    try:
        content = json.loads(text)
        error = content.get("error", content)
        found = error.get("message") or error.get("detail") or text if isinstance(error, dict) else error
    except (ValueError, AttributeError):
        found = text
    return " ".join(str(found).split())[:400] or "nothing"


def _retry_after(header: str | None) -> float:
    """Seconds that a server asks to wait, given as a number or a date."""
    try:
        seconds = float(header or 0)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(header or "") - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return 0.0
    return min(seconds, _LONGEST_ASKED) if seconds > 0 else 0.0
