"""The server: what requests may do, and the port."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from flanlab.errors import FlanlabError
from flanlab.ui.workplace import Workplace
from tests.ui.test_tabs import FORM

pytest.importorskip("starlette", reason="needs flanlab[ui]")


def fetch(address: str, fields: dict[str, str] | None = None, **headers: str) -> tuple[int, str, Any]:
    """Status, text and headers of an answer."""
    data = None if fields is None else urllib.parse.urlencode(fields).encode()
    request = urllib.request.Request(address, data, headers)
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, answer.read().decode(), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), error.headers


def test_pages_allow_nothing_from_elsewhere(address: str) -> None:
    status, text, headers = fetch(address)
    assert status == 200
    assert "visitor_comments" in text
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy


def test_mistakes_are_pages_with_a_hint(address: str) -> None:
    status, text, _ = fetch(f"{address}/task?task=%3Cscript%3Enowhere")
    assert status == 400
    assert "There is no task `&lt;script&gt;nowhere` here." in text
    assert "Hint:" in text


def test_other_hosts_and_other_pages_change_nothing(address: str, workplace: Workplace) -> None:
    assert fetch(address, Host="evil.example")[0] == 400
    save = f"{address}/editor/save"
    fields = {**FORM, "name": "mine"}
    for origin in ({}, {"Origin": "https://evil.example"}, {"Origin": "null"}):
        status, text, _ = fetch(save, fields, **origin)
        assert status == 400
        assert "does not come from a page of this app" in text
    assert not workplace.save_to.exists()
    assert fetch(save, fields, Origin=address)[0] == 200
    assert (workplace.save_to / "mine.yaml").is_file()


def test_line_breaks_of_browsers_become_plain_ones(address: str, workplace: Workplace) -> None:
    fetch(f"{address}/editor/save", {**FORM, "prompt": "{{ comment }}\r\nWell?", "name": "mine"}, Origin=address)
    assert workplace.task("mine").templates[0].prompt == "{{ comment }}\nWell?"


def test_a_form_beyond_all_measure_is_refused(address: str) -> None:
    status, text, _ = fetch(f"{address}/editor/preview", {**FORM, "prompt": "x" * 8_000_001}, Origin=address)
    assert status == 400
    assert "longer than 8,000,000 bytes" in text


def test_errors_that_nobody_foresaw_are_a_message(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("out of <b>memory</b>")

    monkeypatch.setattr(Workplace, "task", fail)
    for fields in (None, FORM):
        status, text, _ = fetch(f"{address}/{'task' if fields is None else 'editor/preview'}", fields, Origin=address)
        assert status == 500
        assert "does not foresee: out of &lt;b&gt;memory&lt;/b&gt;" in text
        assert "Hint:" in text
    assert fetch(f"{address}/no/such/page")[0] == 404
    assert "There is no page /no/such/page." in fetch(f"{address}/no/such/page")[1]


def test_a_port_in_use_is_told() -> None:
    from flanlab.ui.app import open_port

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(FlanlabError, match="another program uses it") as raised:
            open_port(port)
    assert raised.value.hint == f"Try another one: --port {port + 1}"


BUSY_APP = """
import sys, threading
from pathlib import Path
from flanlab.ui import app
from flanlab.ui.workplace import Workplace

def answer(*_):
    print("asked", flush=True)
    threading.Event().wait(600)

app._PAGES["/tasks"] = answer
app.serve(Workplace({}, Path("nowhere")), 0, lambda line: print(line, flush=True))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_ctrl_c_ends_the_app_in_the_middle_of_an_answer(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", BUSY_APP], cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline().split(":")[2].split()[0])
            with socket.create_connection(("127.0.0.1", port)) as browser:
                browser.sendall(f"GET /tasks HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
                assert process.stdout.readline() == "asked\n"
                process.send_signal(signal.SIGINT)
                _, said = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 128 + signal.SIGINT
    assert said == ""
