"""The steps of a sweep on a Ray cluster: each is a Ray task, which is tried again elsewhere if its worker or node dies."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flanlab.errors import FlanlabError, one_line
from flanlab.experiments.folders import LOG_FILE, is_done
from flanlab.experiments.steps import Step, carry_out, leave_error
from flanlab.progress import console, say

_RETRIES = 5
"""How often a step starts again after its worker or node died. It resumes from its last checkpoint."""
_SECONDS_TO_CONNECT = 10.0
_SECONDS_TO_SAVE = 30.0


def on_ray(steps: Sequence[Step], address: str | None = None, cpus: float = 1, gpus: float = 0) -> Iterator[tuple[Step, str]]:
    """Do as many steps at once as the cluster has room for. Yields each with its outcome, as `carry_out` returns it.

    Args:
        steps: each after the one that it needs. Folders, mirror and local models must have the same paths on all nodes.
        address: of a cluster, host:port or `auto` for the one that this machine belongs to. Default: one is started here.
        cpus: cores for each step.
        gpus: GPUs for each step.

    Raises:
        FlanlabError: ray is not installed, or there is no cluster at the address.
    """
    ray = _connect(address)
    wanted = {"CPU": cpus, "GPU": gpus}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(all(node.get(kind, 0) >= number for kind, number in wanted.items()) for node in nodes):
        say(f"No node of the cluster has {cpus:g} CPUs and {gpus:g} GPUs. Cells wait until one joins.")
    remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=_RETRIES)(_in_worker)
    references: dict[Path, Any] = {}
    for step in steps:
        # Ray itself waits for the step that this one needs.
        after = None if step.needs is None else references.get(step.needs)
        references[step.folder] = remote.options(name=step.title).remote(step, after)
    pending = {references[step.folder]: step for step in steps}
    try:
        while pending:
            [reference], _ = ray.wait(list(pending), num_returns=1)
            step = pending.pop(reference)
            yield step, _outcome(ray, step, reference)
    finally:
        # If this is stopped, workers save a checkpoint.
        for reference in pending:
            ray.cancel(reference)
        if pending:
            ray.wait(list(pending), num_returns=len(pending), timeout=_SECONDS_TO_SAVE)
        ray.shutdown()


def _connect(address: str | None) -> Any:
    try:
        import ray
    except ImportError as error:
        raise FlanlabError("Ray is not installed.", hint='Install it: pip install "flanlab[ray]".') from error
    try:
        host, _, port = (address or "").rpartition(":")
        if host and "/" not in host and port.isdigit():
            # Ray itself would try for minutes.
            socket.create_connection((host, int(port)), timeout=_SECONDS_TO_CONNECT).close()
        # "local" starts a cluster even if this machine belongs to one, which is joined only if asked for.
        ray.init(address=address or "local", log_to_driver=False, include_dashboard=None if address else False)
    except (OSError, RuntimeError, ValueError) as error:
        raise FlanlabError(
            f"There is no Ray cluster at {address}: {one_line(error)}",
            hint="Start one with `ray start --head`, check that RAY_AUTH_MODE and RAY_AUTH_TOKEN are the cluster's, or leave"
            " out --address.",
        ) from error
    return ray


def _in_worker(step: Step, after: str | None) -> str:
    with _log_to(step.folder / LOG_FILE):
        return carry_out(step)


@contextmanager
def _log_to(path: Path) -> Iterator[None]:
    """Print to the end of a file, in plain lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    before = console.file
    with path.open("a", encoding="utf-8") as file:
        console.file = file
        try:
            yield
        finally:
            console.file = before


def _outcome(ray: Any, step: Step, reference: Any) -> str:
    try:
        outcome: str = ray.get(reference)
    except ray.exceptions.RayError as error:
        if step.needs is not None and not is_done(step.needs):
            return carry_out(step)
        outcome = f"Its worker died {_RETRIES + 1} times, or could not start: {one_line(error)}"
        leave_error(step.folder, outcome)
    return outcome
