"""Ends what would wait for ever, so that its test fails."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

LIMIT = 60  # seconds; far more than any of the work takes


@contextlib.contextmanager
def without_waiting() -> Iterator[None]:
    """Fails if the work still runs after `LIMIT`, as one that opened a pipe does."""

    def fail(number: int, frame: FrameType | None) -> None:
        raise AssertionError("it waits")

    former = signal.signal(signal.SIGALRM, fail)
    signal.alarm(LIMIT)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, former)
