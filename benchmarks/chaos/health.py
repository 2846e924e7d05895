"""How soon /healthz answers during the chaos run."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

from .monkey import Report, Target

POLL = 0.1  # seconds between an answer and the next question


class Health(threading.Thread):
    """Asks /healthz ten times a second, from a thread that the clients' work does not hold up.

    With two busy cores a process may wait long until it runs at all. Linux counts that time,
    and it is not the server's.

    Attributes:
        seconds: of each answer that came while the server was up.
        starved: answers that took too long, for want of a CPU alone.
    """

    def __init__(self, target: Target, report: Report, most: float) -> None:
        super().__init__(daemon=True)
        self.target, self.report, self.most = target, report, most
        self.seconds: list[float] = []
        self.starved = 0
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(POLL):
            began, (used, waited) = time.monotonic(), self._scheduled()
            try:
                problem = self._ask()
            except OSError as error:
                problem = repr(error)
            now, (used_now, waited_now) = time.monotonic(), self._scheduled()
            if self.target.outages.within(began, now) > 0:
                continue
            seconds, used, waited = now - began, used_now - used, waited_now - waited
            self.seconds.append(seconds)
            if problem or seconds - waited > self.most:
                told = f"{seconds:.2f} s: {used:.2f} on a CPU, {waited:.2f} waiting for one"
                self.report("healthz", f"{told} {problem}")
            elif seconds > self.most:
                self.starved += 1

    def percentile(self, part: float) -> float | None:
        """In seconds."""
        ordered = sorted(self.seconds)
        return (
            round(ordered[min(len(ordered) - 1, int(part * len(ordered)))], 3) if ordered else None
        )

    def _ask(self) -> str:
        where = urlsplit(self.target.url)
        with socket.create_connection((where.hostname, where.port), timeout=30) as connection:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = connection.recv(1000)
        return "" if b" 200 " in answer else f"answer: {answer[:100]!r}"

    def _scheduled(self) -> tuple[float, float]:
        """Seconds that the server's main thread ran, and that it and this one waited for a CPU."""
        ours, theirs = (
            scheduled(f"/proc/self/task/{self.native_id}/schedstat"),
            scheduled(f"/proc/{self.target.process.pid}/schedstat"),
        )
        return theirs[0], theirs[1] + ours[1]


def scheduled(path: str) -> tuple[float, float]:
    """Seconds that a thread ran, and that it waited to run."""
    try:
        ran, waited, _ = Path(path).read_text().split()
    except (OSError, ValueError):
        return 0.0, 0.0
    return int(ran) / 1e9, int(waited) / 1e9
