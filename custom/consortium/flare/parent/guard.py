"""Checks of a kit in the parent processes, before a site takes part.

FLARE acts on an event handler's `UnsafeComponentError` when the process starts, and on its
`NotAuthenticated` when a site registers; it only logs other exceptions.
"""

import sys
import time
from pathlib import Path
from typing import IO

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.fl_exception import NotAuthenticated, UnsafeComponentError

from consortium.core.errors import ConsortiumError, Refused
from consortium.kits.lock import hold_kit, identify_copy
from consortium.kits.start import check_kit

_COPY = "consortium_copy"
"""Key under which a site identifies its copy of the kit to the orchestrator."""
_SILENCE = 45  # seconds; a site sends a heartbeat every 10, and 35 after a lost one


class KitGuard(FLComponent):
    """Checks that a kit is unchanged since it was signed, and that it runs only once.

    It repeats the check of the kit's scripts, which may have been bypassed.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lock: IO[str] | None = None
        self._copy = ""

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Checks the kit before the site registers, and identifies this copy of it."""
        kit = Path(fl_ctx.get_prop(FLContextKey.WORKSPACE_OBJECT).get_root_dir())
        if event_type == EventType.SYSTEM_BOOTSTRAP:
            try:
                check_kit(kit)
                self._lock = hold_kit(kit)
                self._copy = identify_copy(self._lock)
            except ConsortiumError as error:
                self.log_error(fl_ctx, str(error))
                raise UnsafeComponentError(str(error)) from None
        elif event_type in (EventType.BEFORE_CLIENT_REGISTER, EventType.BEFORE_CLIENT_HEARTBEAT):
            fl_ctx.set_prop(_COPY, self._copy, private=False, sticky=False)
        elif event_type == EventType.AFTER_CLIENT_REGISTER and not _has_token(fl_ctx):
            # FLARE ends with a traceback that does not contain the reason.
            message = "the orchestrator does not admit this kit; a copy of it may run elsewhere"
            advice = "ask the coordinator for the reason in the orchestrator's log"
            print(Refused("not-admitted", message, str(kit), advice), file=sys.stderr, flush=True)


def _has_token(fl_ctx: FLContext) -> bool:
    """Returns whether the orchestrator has admitted this site."""
    return bool(fl_ctx.get_prop(FLContextKey.CLIENT_TOKEN))


class DuplicateKitGuard(FLComponent):
    """Admits no second copy of a hospital's kit while one runs; used at the orchestrator.

    FLARE lets the second copy take over without notice. Invariant: the same copy, restarted for
    whatever reason, is admitted at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[str, tuple[str, float]] = {}  # hospital: its copy and last contact

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Records which copies are connected, and refuses another one that registers."""
        if event_type == EventType.CLIENT_QUIT:
            self._seen.pop(fl_ctx.get_peer_context().get_identity_name(), None)
        elif event_type in (
            EventType.CLIENT_REGISTER_RECEIVED,
            EventType.CLIENT_HEARTBEAT_RECEIVED,
        ):
            peer = fl_ctx.get_peer_context()
            name, copy, now = peer.get_identity_name(), peer.get_prop(_COPY, ""), time.monotonic()
            known, seen = self._seen.get(name, (copy, now))
            if copy != known and now - seen < _SILENCE:
                message = f"kit-in-use: {name} is connected and a copy of its kit tries to register"
                self.log_error(fl_ctx, message)
                if event_type == EventType.CLIENT_REGISTER_RECEIVED:
                    raise NotAuthenticated(message)
                return
            self._seen[name] = (copy, now)
