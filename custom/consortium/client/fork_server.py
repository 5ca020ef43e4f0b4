"""Trainer processes that are forked from one that has torch and MONAI imported; CPU only.

    python -P -m consortium.client.fork_server LISTENER FOLDER [MARK] ROOM

One import serves all hospitals of a machine: a trainer costs a tenth of a second instead of seven.
For tests, the simulator and a federation on one machine; a hospital's own machine has one trainer,
which `consortium.client.process` spawns. Nothing at the top of this module imports torch, for the
process that asks does without. What always holds:

* only processes of the same user can ask: the socket has mode 0600 in a folder of mode 0700;
* the server has one thread when it forks, and has computed nothing;
* it ends when the other end of its standard input is closed, so it never outlives who started it;
* a trainer ends when the process that asked for it does, as a spawned one.
"""

import contextlib
import ctypes
import gc
import json
import os
import select
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import IO, Any

import consortium
from consortium.tasks.registry import TASKS

ADDRESS = "CONSORTIUM_FORK_SERVER"
"""The environment variable that names the server's socket; empty or not set: spawn."""

PRELOADED = (
    "torch._inductor",  # of every optimiser's first step, and of deterministic algorithms
    "consortium.client.worker",
    *(f"{package}.task" for package in TASKS.values()),
    "monai.metrics",
)
"""What a trainer imports, and what it would import at its first step."""
_WORKER = "consortium.client.worker"
_ROOM = 4096  # bytes of the command line, over which a child writes its own
_TIMEOUT = 120.0  # seconds until an answer; the server may still be importing
_MOST = 1 << 20  # bytes of a request
_MOST_FILES = 16


class ForkedProcess:
    """A child of the fork server, with the methods of `subprocess.Popen` that are needed.

    Args:
        connection: to the server, on which it sends how the child ended.
        pid: of the child.
        handle: the child's pidfd, which means this child and no later one of its number.
    """

    def __init__(self, connection: socket.socket, pid: int, handle: int):
        self.pid = pid
        self._connection, self._handle = connection, handle
        self._code: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        """Waits for the end; its code, negative for a signal, or 1 where the server is gone.

        Raises:
            subprocess.TimeoutExpired: it still runs.
        """
        if self._code is None:
            if not select.select([self._handle], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(_WORKER, timeout or 0.0)
            with self._connection as connection:
                connection.settimeout(_TIMEOUT)
                try:
                    self._code = int(connection.recv(16) or b"1")
                except OSError:
                    self._code = 1
            os.close(self._handle)
        return self._code

    def kill(self) -> None:
        """Kills it, where it still runs."""
        if self._code is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, signal.SIGKILL)


def fork_worker(arguments: Sequence[str], files: Sequence[int]) -> ForkedProcess | None:
    """Asks the server that the environment names for a trainer process.

    Args:
        arguments: of `consortium.client.worker`, without the file descriptors.
        files: descriptors that the worker takes.

    Returns:
        The process, or None where a new one must be spawned: no server is named, it is gone, it
        has another version of this package, or torch would find a GPU.
    """
    address = os.environ.get(ADDRESS)
    if not address or _may_have_gpu(os.environ):
        return None
    request = {
        "arguments": list(arguments),
        "environment": dict(os.environ),
        "folder": os.getcwd(),  # noqa: PTH109
        "package": consortium.__file__,
        "path": list(filter(None, sys.path)),
        "umask": _umask(),
    }
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(_TIMEOUT)
        connection.connect(address)
        # Standard output and error are those of who asks, as with a spawned process.
        socket.send_fds(connection, [b"+"], [1, 2, *files])
        connection.sendall(json.dumps(request).encode())
        connection.shutdown(socket.SHUT_WR)
        answer, handles, _, _ = socket.recv_fds(connection, 16, 1)
        if handles:
            return ForkedProcess(connection, int(answer), handles[0])
    except OSError:
        pass
    connection.close()
    return None


def can_fork(environment: Mapping[str, str]) -> bool:
    """Whether a server is to be started for processes of this environment.

    Not where it names one, or an empty one; not where torch would find a GPU, nor where the system
    has no handles of processes (Linux has).
    """
    return (
        ADDRESS not in environment and hasattr(os, "pidfd_open") and not _may_have_gpu(environment)
    )


@contextlib.contextmanager
def fork_server(environment: Mapping[str, str]) -> Iterator[Mapping[str, str]]:
    """A server for as long as the context is open.

    Args:
        environment: of the processes that will ask. Where it names a server, or an empty one, it
            stands.

    Returns:
        The environment that names the server.
    """
    if not can_fork(environment):
        yield environment
        return
    ours, theirs = os.pipe()
    try:
        server = start_server(ours, environment)
    finally:
        os.close(ours)
    try:
        yield {**environment, ADDRESS: server.address}
    finally:
        os.close(theirs)
        server.process.kill()  # it may still import, for nobody
        server.process.wait()
        shutil.rmtree(Path(server.address).parent, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Server:
    """A server that was started.

    Attributes:
        address: of its socket.
        process: the server.
    """

    address: str
    process: subprocess.Popen[bytes]


def start_server(
    life: int,
    environment: Mapping[str, str],
    *,
    mark: str = "",
    log: int | IO[bytes] = subprocess.DEVNULL,
) -> Server:
    """Starts a server, which takes requests at once and answers when it has imported all.

    Args:
        life: the end of a pipe to read from. The server ends when all other ends are closed.
        environment: to start it with.
        mark: a word on its command line by which it is recognised.
        log: where its errors go.
    """
    # A socket's path is limited to 107 bytes, so it is not in the workspace of a run.
    folder = Path(tempfile.mkdtemp(prefix="consortium-"))
    address = str(folder / "socket")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        Path(address).chmod(0o600)
        listener.listen(128)
        number = listener.fileno()
        process = subprocess.Popen(
            [
                *(sys.executable, "-P", "-m", "consortium.client.fork_server"),
                *(str(number), str(folder), *filter(None, [mark]), " " * _ROOM),
            ],
            stdin=life,
            stdout=log,
            stderr=log,
            env={
                **environment,
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                "CUDA_VISIBLE_DEVICES": "",
                "MKL_NUM_THREADS": "1",
                "OMP_NUM_THREADS": "1",
                "OPENBLAS_NUM_THREADS": "1",
                "OMP_WAIT_POLICY": "PASSIVE",
            },
            pass_fds=(number,),
            # A person's Ctrl-C is for the run, which then ends this one.
            start_new_session=True,
        )
    return Server(address, process)


def _may_have_gpu(environment: Mapping[str, str]) -> bool:
    """Whether torch might use CUDA, as far as can be seen without torch."""
    if environment.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return False
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists()


def _umask() -> int:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("Umask:"):
            return int(line.split()[1], 8)
    return 0o077


@dataclass(frozen=True, slots=True)
class _Child:
    pid: int
    connection: socket.socket


class _Server:
    """Forks a trainer for each request.

    Args:
        listener: takes requests.
    """

    def __init__(self, listener: socket.socket):
        self._listener = listener
        self._children: dict[int, _Child] = {}  # by pidfd
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ)
        self._selector.register(sys.stdin.fileno(), selectors.EVENT_READ)

    def serve(self) -> None:
        """Forks until nobody is left who could ask."""
        while True:
            for key, _ in self._selector.select():
                if key.fd == sys.stdin.fileno():
                    return
                if key.fd == self._listener.fileno():
                    self._take(self._listener.accept()[0])
                else:
                    self._bury(key.fd)

    def _take(self, connection: socket.socket) -> None:
        files: list[int] = []
        try:
            connection.settimeout(_TIMEOUT)
            request, files = _receive(connection)
            if request["package"] != consortium.__file__:
                connection.close()
                return
            pid = os.fork()
            if pid == 0:
                self._become_worker(connection, request, files)
            handle = os.pidfd_open(pid)
            self._children[handle] = _Child(pid, connection)
            self._selector.register(handle, selectors.EVENT_READ)
            socket.send_fds(connection, [str(pid).encode()], [handle])
        except (OSError, ValueError, KeyError):  # who asked is gone, or spawns
            traceback.print_exc()
            if connection not in [child.connection for child in self._children.values()]:
                connection.close()
        finally:
            for file in files:
                os.close(file)

    def _bury(self, handle: int) -> None:
        self._selector.unregister(handle)
        child = self._children.pop(handle)
        _, status = os.waitpid(child.pid, 0)
        with child.connection as connection, contextlib.suppress(OSError):
            connection.sendall(str(os.waitstatus_to_exitcode(status)).encode())
        os.close(handle)

    def _become_worker(
        self, connection: socket.socket, request: Mapping[str, Any], files: Sequence[int]
    ) -> None:
        """Runs the worker in the child; does not return."""
        code = 1
        try:
            self._selector.close()
            self._listener.close()
            connection.close()
            for handle, child in self._children.items():
                os.close(handle)
                child.connection.close()
            _adopt(request, files[:2])
            _run_worker(files[2:])
            code = 0
        except BaseException:  # what a spawned process would print at its end
            traceback.print_exc()
        finally:
            os._exit(code)


def _receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """A request and its file descriptors."""
    _, files, _, _ = socket.recv_fds(connection, 1, _MOST_FILES)
    content = b""
    while part := connection.recv(1 << 16):
        content += part
        if len(content) > _MOST:
            raise ValueError("too long a request")
    return json.loads(content), files


def _adopt(request: Mapping[str, Any], outputs: Sequence[int]) -> None:
    """Makes a child what it were had it been spawned by who asked."""
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    os.umask(request["umask"])
    sys.path[:] = request["path"]
    sys.argv = [_WORKER, *request["arguments"]]
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in zip((nothing, *outputs), range(3), strict=True):
        os.dup2(source, target)
        os.close(source)
    _write_command_line([sys.executable, "-P", "-m", *sys.argv])


def _run_worker(files: Sequence[int]) -> None:
    import torch

    from consortium.client.worker import run_worker

    # Read from the environment at import, which was the server's.
    if threads := os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(int(threads))
    else:
        torch.set_num_threads(len(os.sched_getaffinity(0)))
    run_worker(*files)


def _write_command_line(words: Sequence[str]) -> None:
    """Writes over this process's arguments, by which people and `down` recognise a process."""
    fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    start, end = int(fields[45]), int(fields[46])  # arg_start and arg_end, see proc(5)
    if 0 < start < end:
        line = b"\0".join(os.fsencode(word) for word in words)[: end - start - 1]
        ctypes.memmove(start, line.ljust(end - start, b"\0"), end - start)


def main() -> None:
    """Imports, then forks trainers until the other end of standard input is closed."""
    number, folder = int(sys.argv[1]), Path(sys.argv[2])
    try:
        with socket.socket(fileno=number) as listener:
            for name in PRELOADED:
                import_module(name)
            gc.collect()
            gc.freeze()  # so that no child writes into the memory that all share
            _Server(listener).serve()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
