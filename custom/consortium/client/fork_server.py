"""Forks trainer processes from one that has torch and MONAI imported; CPU only.

    python -P -m consortium.client.fork_server LISTENER FOLDER [MARK] PADDING

One import serves all hospitals of a machine: a trainer starts in a tenth of a second, not in seven.
Used by tests, the simulator and a federation on one machine. A hospital's own machine has one
trainer, which `consortium.client.process` spawns. The top of this module does not import torch,
because the requesting process does without it. Invariants:

* only processes of the same user can send requests: the socket has mode 0600 in a folder of 0700;
* the server has one thread when it forks, and has computed nothing;
* it ends when the other end of its standard input is closed, so it never outlives its parent;
* a trainer ends when the process that requested it does, like a spawned one.
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
"""Environment variable with the path of the server's socket; trainers are spawned if it is empty or
unset."""

PRELOADED = (
    "consortium.client.worker",
    *(f"{package}.task" for package in TASKS.values()),
    "monai.metrics",
    "torch._dynamo",  # 2 s, which torch.optim takes at its first step
)
"""Modules that a trainer imports at its start or at its first step."""
_WORKER = "consortium.client.worker"
_PADDING = 4096  # bytes reserved on the command line, which a child overwrites with its own
_TIMEOUT = 120.0  # seconds to wait for an answer; the server may still be importing
_MAX_REQUEST = 1 << 20  # bytes
_MAX_FILES = 16


class ForkedProcess:
    """A child of the fork server, with the needed methods of `subprocess.Popen`.

    Args:
        connection: to the server, which sends the child's exit code on it.
        pid: the child's process id.
        handle: the child's pidfd, which never refers to a later process with the same id.
    """

    def __init__(self, connection: socket.socket, pid: int, handle: int):
        self.pid = pid
        self._connection, self._handle = connection, handle
        self._code: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        """Waits for the end and returns the exit code.

        It is negative for a signal, and 1 if the server is gone.

        Raises:
            subprocess.TimeoutExpired: the child still runs.
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
        """Kills the child if it still runs."""
        if self._code is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, signal.SIGKILL)


def fork_worker(arguments: Sequence[str], files: Sequence[int]) -> ForkedProcess | None:
    """Requests a trainer process from the server that the environment names.

    Args:
        arguments: of `consortium.client.worker`, without the file descriptors.
        files: descriptors that the worker inherits.

    Returns:
        The process, or None if one must be spawned: no server is named, it is gone, it has another
        version of this package, or torch would find a GPU.
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
        # Standard output and error are those of this process, as with a spawned one.
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
    """Returns whether to start a server for processes with this environment.

    It is not started if the environment already sets the address, even to an empty one, if torch
    would find a GPU, or if the system has no process handles (Linux has them).
    """
    return (
        ADDRESS not in environment and hasattr(os, "pidfd_open") and not _may_have_gpu(environment)
    )


@contextlib.contextmanager
def fork_server(environment: Mapping[str, str]) -> Iterator[Mapping[str, str]]:
    """Runs a server for as long as the context is open.

    Args:
        environment: of the processes that will send requests. If it already sets the address, even
            to an empty one, it is left unchanged.

    Yields:
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
        server.process.kill()  # it may still be importing
        server.process.wait()
        shutil.rmtree(Path(server.address).parent, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Server:
    """A running fork server.

    Attributes:
        address: path of its socket.
        process: the server's process.
    """

    address: str
    process: subprocess.Popen[bytes]

    def detach(self) -> None:
        """Leaves the server to the holders of its life pipe; nobody here waits for its end."""
        self.process.returncode = 0  # or Popen would warn of a child that still runs


def start_server(
    life: int,
    environment: Mapping[str, str],
    *,
    mark: str = "",
    log: int | IO[bytes] = subprocess.DEVNULL,
) -> Server:
    """Starts a server, which accepts requests at once and answers once its imports are done.

    Args:
        life: read end of a pipe. The server ends when all other ends are closed.
        environment: of the server's process.
        mark: a word on its command line that identifies it.
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
                *(str(number), str(folder), *filter(None, [mark]), " " * _PADDING),
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
            # Ctrl-C is meant for the run, which then ends the server.
            start_new_session=True,
        )
    return Server(address, process)


def _may_have_gpu(environment: Mapping[str, str]) -> bool:
    """Returns whether torch might use CUDA, judged without importing torch."""
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
        listener: socket that accepts requests.
    """

    def __init__(self, listener: socket.socket):
        self._listener = listener
        self._children: dict[int, _Child] = {}  # by pidfd
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ)
        self._selector.register(sys.stdin.fileno(), selectors.EVENT_READ)

    def serve(self) -> None:
        """Handles requests until the other end of standard input is closed."""
        while True:
            for key, _ in self._selector.select():
                if key.fd == sys.stdin.fileno():
                    return
                if key.fd == self._listener.fileno():
                    self._accept(self._listener.accept()[0])
                else:
                    self._reap(key.fd)

    def _accept(self, connection: socket.socket) -> None:
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
        except (OSError, ValueError, KeyError):  # the requester is gone, or spawns instead
            traceback.print_exc()
            if connection not in [child.connection for child in self._children.values()]:
                connection.close()
        finally:
            for file in files:
                os.close(file)

    def _reap(self, handle: int) -> None:
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
    """Receives a request and its file descriptors."""
    _, files, _, _ = socket.recv_fds(connection, 1, _MAX_FILES)
    content = b""
    while part := connection.recv(1 << 16):
        content += part
        if len(content) > _MAX_REQUEST:
            raise ValueError("the request is too long")
    return json.loads(content), files


def _adopt(request: Mapping[str, Any], outputs: Sequence[int]) -> None:
    """Gives this child the state that the requester would have given a spawned process."""
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    os.umask(request["umask"])
    sys.path[:] = request["path"]
    sys.argv = [_WORKER, *request["arguments"]]
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in zip((null, *outputs), range(3), strict=True):
        os.dup2(source, target)
        os.close(source)
    _write_command_line([sys.executable, "-P", "-m", *sys.argv])


def _run_worker(files: Sequence[int]) -> None:
    import torch

    from consortium.client.worker import run_worker

    # torch read the number of threads at its import, from the server's environment.
    if threads := os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(int(threads))
    else:
        torch.set_num_threads(len(os.sched_getaffinity(0)))
    run_worker(*files)


def _write_command_line(words: Sequence[str]) -> None:
    """Overwrites this process's arguments, by which people and `down` recognise it."""
    fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    start, end = int(fields[45]), int(fields[46])  # arg_start and arg_end, see proc(5)
    if 0 < start < end:
        line = b"\0".join(os.fsencode(word) for word in words)[: end - start - 1]
        ctypes.memmove(start, line.ljust(end - start, b"\0"), end - start)


def main() -> None:
    """Imports `PRELOADED`, then forks trainers until the parent process ends."""
    number, folder = int(sys.argv[1]), Path(sys.argv[2])
    try:
        with socket.socket(fileno=number) as listener:
            for name in PRELOADED:
                import_module(name)
            gc.collect()
            gc.freeze()  # so that no child writes into the shared memory
            _Server(listener).serve()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
