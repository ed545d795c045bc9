"""The app: addresses, what a request may do, and the server on this computer's own address.

Texts of tasks and predictions come from anywhere, and so may requests (from other pages that are open in the same browser). So
pages are escaped and forbid the browser any script, style or address but this app's own; requests must name this computer as
their host; and what changes something must come from the app's own pages.
"""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from urllib.parse import parse_qsl, urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from flanlab.errors import FlanlabError, one_line
from flanlab.ui import editor_tab, results_tab, tasks_tab, try_tab
from flanlab.ui.workplace import Page, Workplace, short, show

HOST = "127.0.0.1"
_MOST_BYTES = 8_000_000
"""Of a form."""
_SECONDS_TO_END = 2
"""After Ctrl-C: enough to save a task, too short for a model's answer."""
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_PAGES: dict[str, Page] = {
    "/tasks": tasks_tab.tasks_page,
    "/task": tasks_tab.task_page,
    "/editor": editor_tab.editor_page,
    "/results": results_tab.results_page,
    "/predictions": results_tab.predictions_page,
    "/try": try_tab.try_page,
}
_PARTS: dict[str, Page] = {
    "/editor/preview": editor_tab.preview_part,
    "/editor/score": editor_tab.score_part,
    "/editor/save": editor_tab.save_part,
    "/try/answer": try_tab.answer_part,
}
"""Pieces of a page, asked for with a form."""


def make_app(workplace: Workplace) -> Starlette:
    """The app as ASGI."""
    routes = [
        Route("/", lambda _: RedirectResponse("/tasks")),
        *(Route(path, _endpoint(workplace, page)) for path, page in _PAGES.items()),
        *(Route(path, _endpoint(workplace, part), methods=["POST"]) for path, part in _PARTS.items()),
        Mount("/static", StaticFiles(directory=Path(__file__).parent / "static")),
    ]
    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"], www_redirect=False)
    return Starlette(routes=routes, middleware=[hosts], exception_handlers={404: _missing, Exception: _unforeseen})


def _missing(request: Request, _: Exception) -> Response:
    fault = FlanlabError(f"There is no page {short(request.url.path, 100)}.", hint="Choose one of the tabs.")
    return _fault(request, fault, 404)


def _unforeseen(request: Request, error: Exception) -> Response:
    """The terminal shows the traceback."""
    fault = FlanlabError(
        f"The app met an error that it does not foresee: {one_line(error)}",
        hint="Nothing that was written is lost. The terminal in which the app runs says more.",
    )
    return _fault(request, fault, 500)


def _fault(request: Request, fault: FlanlabError, status: int) -> Response:
    """A page, or a piece of one where that was asked for."""
    return _response(show("fault" if request.method == "POST" else "error", tab="", fault=fault), status)


def _endpoint(workplace: Workplace, page: Page) -> Callable[[Request], object]:
    async def endpoint(request: Request) -> Response:
        try:
            fields = await _form(request) if request.method == "POST" else dict(request.query_params)
            return _response(await run_in_threadpool(page, workplace, fields))
        except FlanlabError as error:
            return _fault(request, error, 400)

    return endpoint


async def _form(request: Request) -> dict[str, str]:
    if urlsplit(request.headers.get("origin", "")).netloc != request.headers.get("host"):
        raise FlanlabError("The request does not come from a page of this app.", hint="Open the app's own address.")
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > _MOST_BYTES:
            raise FlanlabError(f"The form is longer than {_MOST_BYTES:,} bytes.", hint="Shorten its texts.")
    # Browsers send line breaks as two characters.
    return {name: value.replace("\r\n", "\n") for name, value in parse_qsl(content.decode(), keep_blank_values=True)}


def _response(content: str, status: int = 200) -> Response:
    # A text may hold half of a surrogate pair, which UTF-8 does not know.
    return HTMLResponse(content.encode(errors="replace"), status, _HEADERS)


def open_port(port: int) -> socket.socket:
    """Take a port of this computer's own address; 0 takes a free one.

    Raises:
        FlanlabError: another program has it, or it may not be taken.
    """
    opened = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind((HOST, port))
        opened.listen()
    except OSError as error:
        opened.close()
        why = "another program uses it" if error.errno == errno.EADDRINUSE else error.strerror
        raise FlanlabError(f"Port {port} cannot be opened: {why}.", hint=f"Try another one: --port {port + 1}") from error
    return opened


class _Server(uvicorn.Server):
    """Ends soon after Ctrl-C. A thread in which a model answers cannot be stopped, and uvicorn would wait for it."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        last = threading.Timer(_SECONDS_TO_END, os._exit, [128 + sig])
        last.daemon = True  # where nothing was being asked, the process ends before
        last.start()


def serve(workplace: Workplace, port: int, say: Callable[[str], None]) -> None:
    """Serve the app on this computer's own address until Ctrl-C.

    Raises:
        FlanlabError: the port cannot be opened.
    """
    opened = open_port(port)
    address = f"http://{HOST}:{opened.getsockname()[1]}"
    say(f"flanlab runs at {address} (stop it with Ctrl-C)")
    _Server(uvicorn.Config(make_app(workplace), log_level="warning")).run(sockets=[opened])
