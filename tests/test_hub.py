from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from huggingface_hub import close_session, constants

from flanlab import hub
from flanlab.errors import FlanlabError
from flanlab.models.names import check_model_name


@pytest.fixture(autouse=True)
def afresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    hub._find_out.cache_clear()
    close_session()  # it reads the environment's proxies when it is made
    yield
    close_session()
    hub._find_out.cache_clear()


class Answering(BaseHTTPRequestHandler):
    """A Hub, or a proxy, that answers 200 to everything."""

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def answering() -> Iterator[int]:
    with HTTPServer(("127.0.0.1", 0), Answering) as server:
        threading.Thread(target=server.serve_forever).start()
        yield server.server_port
        server.shutdown()


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A port that accepts connections and never answers."""
    monkeypatch.setattr(hub, "_SECONDS", 0.1)
    monkeypatch.setattr(hub, "_ANSWER_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


def test_a_hub_that_answers_is_used(answering: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{answering}")
    hub.work_offline_if_unreachable("owner/name")
    assert not constants.HF_HUB_OFFLINE
    assert hub.offline_hint("owner/name") == ""


def test_without_a_hub_its_client_works_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{closed_port()}")
    hub.work_offline_if_unreachable("owner/name")
    assert constants.HF_HUB_OFFLINE
    assert "owner/name" in hub.offline_hint("owner/name")
    assert hub.offline_hint(".") == ""


def test_a_proxy_is_asked_in_its_place(answering: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://hub.invalid")
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{answering}")
    hub.work_offline_if_unreachable("owner/name")
    assert not constants.HF_HUB_OFFLINE


@pytest.mark.parametrize("through_proxy", [True, False])
def test_a_hub_or_a_proxy_that_never_answers_counts_as_unreachable(
    through_proxy: bool, silent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = f"http://127.0.0.1:{silent}"
    monkeypatch.setattr(constants, "ENDPOINT", "https://hub.invalid" if through_proxy else place)
    if through_proxy:
        monkeypatch.setenv("https_proxy", place)
    hub.work_offline_if_unreachable("owner/name")
    assert constants.HF_HUB_OFFLINE
    assert f"no answer from {'the proxy ' if through_proxy else ''}127.0.0.1" in hub.offline_hint("owner/name")


def test_a_folder_needs_no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{closed_port()}")
    hub.work_offline_if_unreachable(".")
    assert not constants.HF_HUB_OFFLINE


def test_a_mistyped_model_is_told_at_once_with_a_suggestion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{closed_port()}")
    with pytest.raises(FlanlabError, match=r"No model smolm2-135m was found") as caught:
        check_model_name("smolm2-135m")
    assert "cannot be reached" in caught.value.hint
    assert "Did you mean smollm2-135m-instruct?" in caught.value.hint
    check_model_name("smollm2-135m-instruct")


def test_without_a_hub_no_client_is_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The client's certificates and imports alone take longer than the rest."""
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{closed_port()}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.utils._http.get_session", lambda: pytest.fail("a client was made"))
    with pytest.raises(FlanlabError, match=r"No model owner/name was found"):
        check_model_name("owner/name")


def test_without_a_hub_rows_that_are_not_cached_are_not_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{closed_port()}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    hub.work_offline_if_unreachable("Owner/Name")
    assert not hub.may_have_rows("Owner/Name")
    assert not hub.may_have_rows("a" * 5000)
    (tmp_path / "datasets" / "owner___name").mkdir(parents=True)
    assert hub.may_have_rows("Owner/Name")
    assert not hub.may_have_rows("Other/Name")
    (tmp_path / "hub" / "datasets--Other--Name").mkdir(parents=True)
    assert hub.may_have_rows("Other/Name")


def test_with_a_hub_rows_are_looked_for(answering: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{answering}")
    hub.work_offline_if_unreachable("Other/Name")
    assert hub.may_have_rows("Other/Name")
