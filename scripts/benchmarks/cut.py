"""Cuts the network between the orchestrator and one hospital for six minutes.

The hospital's kit connects through a link that can be cut (`connect_to` of FLARE's project file). A
cut is silent, like that of a cable: neither side gets an error, sent data waits, and new
connections get no answer. A round needs every hospital.
"""

import contextlib
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from scripts.benchmarks import chaos
from scripts.benchmarks.report import Row, make_row

from consortium.core.errors import EnvironmentProblem, Incomplete
from consortium.core.site_policy import simulated_privacy
from consortium.flare.job import checkpoint_folder
from consortium.flare.session import open_session
from consortium.orchestration.checkpoints import count_rounds
from consortium.runs import federation

_AWAY = 360.0  # seconds
_PATIENCE = 600.0  # seconds for the rest of the run
_ROUNDS = 60
_POLL = 0.05


class Link:
    """Forwards bytes between its own port and another one while it is not cut.

    Args:
        target: the other port, on this machine.
    """

    def __init__(self, target: int):
        self._target = target
        self._whole = threading.Event()
        self._whole.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Stops forwarding."""
        self._whole.clear()

    def mend(self) -> None:
        """Forwards the data that has waited, and all new data."""
        self._whole.set()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._carry, args=(near,), daemon=True).start()

    def _carry(self, near: socket.socket) -> None:
        self._whole.wait()
        try:
            far = socket.create_connection(("127.0.0.1", self._target))
        except OSError:
            near.close()
            return
        with near, far:
            back = threading.Thread(target=self._pump, args=(far, near), daemon=True)
            back.start()
            self._pump(near, far)
            back.join()

    def _pump(self, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                self._whole.wait()
                other.sendall(data)
        for end in (one, other):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Refuses further connections."""
        self.mend()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@contextmanager
def linked(folder: Path) -> Iterator[tuple[Path, Link]]:
    """Runs a federation whose first hospital connects through a link.

    Args:
        folder: contains the hospitals' data in `data/`.
    """
    links: list[Link] = []
    describe = federation.describe_project

    def with_link(names: Sequence[str], port: int) -> dict[str, Any]:
        project = describe(names, port)
        links.append(Link(port))
        for participant in project["participants"]:
            if participant["name"] == names[0]:
                participant["connect_to"] = {"host": "localhost", "port": links[0].port}
        return project

    place = folder / "federation"
    try:
        with mock.patch.object(federation, "describe_project", with_link):
            own = {"privacy": simulated_privacy(1).model_dump()}
            federation.up(place, data=folder / "data", own=own)
        yield place, links[0]
    finally:
        federation.down(place)
        for link in links:
            link.close()


def run(place: Path, link: Link, job: Path, seconds: float) -> tuple[dict[str, object], float]:
    """Runs a job and cuts the link for some seconds in the middle of the run.

    Returns:
        The result of the run, and the seconds from the repair of the link to the next closed round.

    Raises:
        EnvironmentProblem: `stuck`, if the run does not end.
    """
    with open_session(federation.admin_kit(place, federation.RESEARCHER)) as session:
        job_id = session.submit(chaos.renew(job))
    checkpoints = checkpoint_folder(place / "machines" / federation.ORCHESTRATOR, job_id)
    while count_rounds(checkpoints) < 5:
        time.sleep(_POLL)
    link.cut()
    time.sleep(seconds)
    before = count_rounds(checkpoints)
    link.mend()
    mended = time.monotonic()
    gap = 0.0
    while time.monotonic() - mended < _PATIENCE:
        time.sleep(_POLL)
        if not gap and count_rounds(checkpoints) > before:
            gap = time.monotonic() - mended
        if gap and (result := chaos.find_end(place, job_id)):
            return result, gap
    raise EnvironmentProblem("stuck", "the run does not continue", str(place), "see its logs")


def measure(quick: bool) -> list[Row]:
    """Cuts the link once.

    Args:
        quick: for a few seconds.

    Raises:
        Incomplete: `run-lost`, if the run did not end complete.
    """
    seconds = 5.0 if quick else _AWAY
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary)
        job = chaos.prepare(folder, rounds=20 if quick else _ROUNDS)
        with linked(folder) as (place, link):
            result, gap = run(place, link, job, seconds)
    if not result["complete"]:
        raise Incomplete("run-lost", str(result["reason"]), "the cut")
    case = f"cut for {seconds:.0f} s: from the repair until a round was closed"
    return [make_row(case, [gap], "s")]
