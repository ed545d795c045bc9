from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

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
    yield
    hub._find_out.cache_clear()


@pytest.fixture
def listening() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


def test_a_hub_that_answers_is_used(listening: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{listening}")
    hub.work_offline_if_unreachable("owner/name")
    assert not constants.HF_HUB_OFFLINE
    assert hub.offline_hint("owner/name") == ""


def test_without_a_hub_its_client_works_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{closed_port()}")
    hub.work_offline_if_unreachable("owner/name")
    assert constants.HF_HUB_OFFLINE
    assert "owner/name" in hub.offline_hint("owner/name")
    assert hub.offline_hint(".") == ""


def test_a_proxy_is_asked_in_its_place(listening: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "https://hub.invalid")
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{listening}")
    hub.work_offline_if_unreachable("owner/name")
    assert not constants.HF_HUB_OFFLINE


def test_a_folder_needs_no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{closed_port()}")
    hub.work_offline_if_unreachable(".")
    assert not constants.HF_HUB_OFFLINE


def test_a_mistyped_model_is_told_at_once_with_a_suggestion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{closed_port()}")
    with pytest.raises(FlanlabError, match=r"There is no model smolm2-135m\.") as caught:
        check_model_name("smolm2-135m")
    assert "cannot be reached" in caught.value.hint
    assert "Did you mean smollm2-135m-instruct?" in caught.value.hint
    check_model_name("smollm2-135m-instruct")


def test_without_a_hub_no_client_is_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The client's certificates and imports alone take longer than the rest."""
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{closed_port()}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.utils._http.get_session", lambda: pytest.fail("a client was made"))
    with pytest.raises(FlanlabError, match=r"There is no model owner/name\."):
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


def test_with_a_hub_rows_are_looked_for(listening: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{listening}")
    hub.work_offline_if_unreachable("Other/Name")
    assert hub.may_have_rows("Other/Name")
