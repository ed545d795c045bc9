"""Whether the Hugging Face Hub can be reached: found out once, in two seconds at most.

Without this, its client tries each file six times, with waits that double: half a minute and more for every name. Where the
Hub does not take a connection in time, its client is set to work offline, from what it has cached. A network that connects is
used however slow it is: no time limit of the client's is changed. One that takes longer than two seconds to connect is given
the time in HF_HUB_ETAG_TIMEOUT, which the client reads, too.
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
_TIMEOUT_VARIABLE = "HF_HUB_ETAG_TIMEOUT"


def offline_hint(name: str) -> str:
    """What to do where a name of the Hub's could not be read; empty where the Hub can be reached, or the name is a path."""
    if Path(name).exists() or not _is_offline():
        return ""
    return (
        f"The Hugging Face Hub cannot be reached, and {name} is not among the files that it left here. Check the name and the"
        f" network. If the network is only slow, set {_TIMEOUT_VARIABLE} to the seconds that a connection may take."
    )


def work_offline_if_unreachable(name: str) -> None:
    """Before a name is looked up on the Hub: set its client to work offline where the Hub cannot be reached."""
    if not Path(name).exists():
        _find_out()


def _is_offline() -> bool:
    from huggingface_hub import is_offline_mode

    return is_offline_mode()


@functools.cache
def _find_out() -> None:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or _connects(constants.ENDPOINT):
        return
    constants.HF_HUB_OFFLINE = True
    # For processes that this one starts, and for `datasets`, which copies the setting when it is imported.
    os.environ["HF_HUB_OFFLINE"] = "1"
    if "datasets" in sys.modules:
        from datasets import config

        config.HF_HUB_OFFLINE = config.HF_DATASETS_OFFLINE = True


def _connects(endpoint: str) -> bool:
    url = urlsplit(endpoint)
    proxy = None if urllib.request.proxy_bypass(url.hostname or "") else urllib.request.getproxies().get(url.scheme)
    place = urlsplit(proxy if proxy and "//" in proxy else f"//{proxy}") if proxy else url
    address = place.hostname or "", place.port or (80 if place.scheme == "http" else 443)
    try:
        seconds = float(os.environ.get(_TIMEOUT_VARIABLE, _SECONDS))
    except ValueError:
        seconds = _SECONDS
    reached = threading.Event()
    done = threading.Event()

    def connect() -> None:
        try:
            socket.create_connection(address, seconds).close()
            reached.set()
        except OSError:
            pass
        finally:
            done.set()

    # In a thread, since looking up a name has no time limit of its own.
    threading.Thread(target=connect, daemon=True).start()
    done.wait(seconds)
    return reached.is_set()
