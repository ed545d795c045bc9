"""The engine that does a sweep's jobs on a Ray cluster: each a Ray task, retried elsewhere when its worker or node dies."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flanlab.errors import FlanlabError, one_line
from flanlab.experiments.sweep import Engine, Report
from flanlab.experiments.sweep_jobs import Job, State, carry_out, error_text, read_record
from flanlab.progress import console, say

_RETRIES = 5
"""How often a job starts again after its worker or node died; it goes on from its last checkpoint."""
_SECONDS_BETWEEN_LOOKS = 1.0
_SECONDS_TO_REACH = 10.0
Outcome = tuple[State, str]


def ray_engine(address: str | None, cpus: float | None, gpus: float | None) -> Engine:
    """An engine on the Ray cluster at `address` (`auto`: the one this machine belongs to), or one started on this machine.

    The root, the mirror and local models must lie where every node finds them, by the same path.

    Raises:
        FlanlabError: ray is not installed, or there is no cluster at the address.
    """
    try:
        import ray
    except ImportError as error:
        raise FlanlabError("Ray is not installed.", hint='Install it: pip install "flanlab[ray]".') from error
    try:
        _reach(address)
        # "local" starts one even where this machine belongs to a cluster, which is joined only when asked for.
        ray.init(address=address or "local", log_to_driver=False, include_dashboard=None if address else False)
    except (OSError, RuntimeError, ValueError) as error:
        raise FlanlabError(
            f"There is no Ray cluster at {address}: {one_line(error)}",
            hint="Start one with `ray start --head`, see that RAY_AUTH_MODE and RAY_AUTH_TOKEN are the cluster's, or leave out"
            " --address.",
        ) from error
    remote = ray.remote(num_cpus=1 if cpus is None else cpus, num_gpus=gpus or 0, max_retries=_RETRIES)(_work)
    wanted = {"CPU": 1 if cpus is None else cpus, "GPU": gpus or 0}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(all(node.get(kind, 0) >= number for kind, number in wanted.items()) for node in nodes):
        told = " and ".join(f"{number:g} {kind}s" for kind, number in wanted.items() if number)
        say(f"No node of the cluster has {told}: cells wait until one joins.")

    def run(jobs: Sequence[Job], report: Report) -> None:
        try:
            _run(ray, remote, jobs, report)
        finally:
            ray.shutdown()

    return run


def _reach(address: str | None) -> None:
    """Knock at a host:port, since Ray itself would try for minutes.

    Raises:
        OSError: nobody answers.
    """
    host, _, port = (address or "").rpartition(":")
    if host and "/" not in host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=_SECONDS_TO_REACH).close()


def _work(job: Job, needed: Outcome | None) -> Outcome:
    """In a worker: the job, unless the one it needs was not done. What it says goes into its log."""
    if needed is not None and needed[0] != "done":
        return "skipped", ""
    with _log_to(job.log_file):
        try:
            carry_out(job)
        except Exception as error:  # told, not raised: a retry would fail alike
            return "failed", error_text(error)
    return "done", ""


@contextmanager
def _log_to(path: Path) -> Iterator[None]:
    """Sends what is said to the end of a file, in plain lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    before = console.file
    with path.open("a", encoding="utf-8") as file:
        console.file = file
        try:
            yield
        finally:
            console.file = before


def _run(ray: Any, remote: Any, jobs: Sequence[Job], report: Report) -> None:
    references: dict[str, Any] = {}
    # What a killed worker of an earlier sweep has left still says that it runs.
    left = {job.key: _worker(job) for job in jobs}
    for job in jobs:
        # Ray itself waits for the outcome of what a job needs before it starts the job.
        references[job.key] = remote.options(name=job.title).remote(job, references.get(job.needs or ""))
    pending = {reference: job for job in jobs for reference in [references[job.key]]}
    running: set[str] = set()
    try:
        while pending:
            ready, _ = ray.wait(list(pending), num_returns=1, timeout=_SECONDS_BETWEEN_LOOKS)
            for reference in ready:
                job = pending.pop(reference)
                report(job, *_outcome(ray, reference, references.get(job.needs or "")))
            for job in pending.values():
                if job.key not in running and _worker(job) not in (None, left[job.key]):
                    running.add(job.key)
                    report(job, "running", "")
    except KeyboardInterrupt:
        for reference in pending:
            ray.cancel(reference)
        # Workers save a checkpoint when they are interrupted.
        ray.wait(list(pending), num_returns=len(pending), timeout=30)
        raise


def _worker(job: Job) -> tuple[str, int] | None:
    """Machine and process that do the job, by its record."""
    record = read_record(job)
    return (record["host"], record["process"]) if record.get("state") == "running" else None


def _outcome(ray: Any, reference: Any, needed: Any) -> Outcome:
    try:
        outcome: Outcome = ray.get(reference)
    except ray.exceptions.RayError as error:
        if needed is not None and _died(ray, needed):
            return "skipped", ""
        lines = str(error).strip().splitlines()
        return "failed", f"Its worker died {_RETRIES + 1} times, or could not start: {lines[0] if lines else error}"
    return outcome


def _died(ray: Any, reference: Any) -> bool:
    """Whether a job has come to no outcome of its own."""
    try:
        ray.get(reference)
    except ray.exceptions.RayError:
        return True
    return False
