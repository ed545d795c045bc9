"""Whether the Hugging Face Hub can be reached: tested once, in 4.5 seconds at most.

Without this, the Hub's client tries each file six times, with doubling waits: half a minute and more for each name, and minutes
behind a proxy that never answers. If the Hub accepts no connection in two seconds, or sends no answer in 2.5 more, its client
is set to work offline, from its cache. After the first answer the network may be slow: no time limit of the client is changed.
If an answer takes longer, set HF_HUB_ETAG_TIMEOUT, which the client reads too.
"""

from __future__ import annotations

import functools
import os
import socket
import sys
import threading
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

_SECONDS = 2.0
"""How long connecting may take."""
_ANSWER_SECONDS = 2.5
"""How long the first answer may take, once connected."""
_TIMEOUT_VARIABLE = "HF_HUB_ETAG_TIMEOUT"


# Paths are looked up by `os.path`, because `Path.exists` fails for names that are too long.
def offline_hint(name: str) -> str:
    """A hint for a name that could not be read from the Hub. Empty if the Hub can be reached, or the name is a path."""
    if os.path.exists(name) or not _is_offline():
        return ""
    why = f" ({failure})" if (failure := _find_out()) else ""
    return (
        f"The Hugging Face Hub cannot be reached{why}, and {name} is not in its local cache. Check the name and the network. If"
        f" the network is only slow, set {_TIMEOUT_VARIABLE} to the number of seconds that an answer may take."
    )


def work_offline_if_unreachable(name: str) -> bool:
    """Set the Hub's client to work offline if the Hub cannot be reached. Call it before a name is looked up.

    Returns:
        Whether the client works offline.
    """
    if not os.path.exists(name):
        _find_out()
    return _is_offline()


def may_have_rows(name: str) -> bool:
    """Whether a data set can be read from the Hub or may be in its client's cache. Quick: the client is not imported if not."""
    from huggingface_hub import constants

    if os.path.exists(name) or not _is_offline():
        return True
    owner = name.partition("/")[0].lower()
    # The client changes names a little (SQuAD becomes s_qu_ad), so the owner must do.
    prepared = Path(os.environ.get("HF_DATASETS_CACHE") or Path(constants.HF_HOME) / "datasets")
    downloaded = Path(constants.HF_HUB_CACHE) / f"datasets--{name.replace('/', '--')}"
    return os.path.isdir(downloaded) or any(path.name.lower().startswith(owner) for path in prepared.glob("*"))


def _is_offline() -> bool:
    from huggingface_hub import is_offline_mode

    return is_offline_mode()


@functools.cache
def _find_out() -> str:
    """Why the Hub cannot be reached; empty if it can, or if its client works offline already."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or not (failure := _failure(constants.ENDPOINT)):
        return ""
    constants.HF_HUB_OFFLINE = True
    # For child processes, and for `datasets`, which copies the setting when it is imported.
    os.environ["HF_HUB_OFFLINE"] = "1"
    if "datasets" in sys.modules:
        from datasets import config

        config.HF_HUB_OFFLINE = config.HF_DATASETS_OFFLINE = True
    return failure


def _failure(endpoint: str) -> str:
    url = urlsplit(endpoint)
    proxy = None if urllib.request.proxy_bypass(url.hostname or "") else urllib.request.getproxies().get(url.scheme)
    place = urlsplit(proxy if proxy and "//" in proxy else f"//{proxy}") if proxy else url
    address = place.hostname or "", place.port or (80 if place.scheme == "http" else 443)
    try:
        seconds = float(os.environ.get(_TIMEOUT_VARIABLE, _SECONDS))
    except ValueError:
        seconds = _SECONDS
    to_answer = max(seconds, _ANSWER_SECONDS)
    who = f"the proxy {address[0]}:{address[1]}" if proxy else address[0]
    found: list[str] = []
    connected = threading.Event()

    def ask() -> None:
        try:
            socket.create_connection(address, seconds).close()
            connected.set()
            found.append(_no_answer(endpoint, to_answer, who))
        except OSError as error:
            found.append(f"no connection to {who}: {error.strerror or error}")

    # In a thread, because looking up a host name has no time limit.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(seconds)
    if connected.is_set():
        asking.join(to_answer)
    if found:
        return found[0]
    return f"no answer from {who}" if connected.is_set() else f"no connection to {who} in {seconds:g} s"


def _no_answer(endpoint: str, seconds: float, who: str) -> str:
    """Why the Hub does not answer its client, or nothing. A proxy or a firewall may accept connections and never answer."""
    from huggingface_hub import get_session

    try:
        get_session().head(endpoint, timeout=seconds, follow_redirects=False)
    except Exception as error:  # which library the client uses, and so which errors it raises, depends on its version
        return f"no answer from {who}: {error}"
    return ""
