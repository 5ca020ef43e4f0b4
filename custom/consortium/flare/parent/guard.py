"""What a site's parent process makes sure of before a site takes part.

Of what a handler raises, FLARE heeds an `UnsafeComponentError` when the process starts, and
`NotAuthenticated` when a site registers; it logs and forgets the rest.
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
"""Key under which a site tells the orchestrator which copy of its kit it runs."""
_SILENCE = 45  # seconds; a site's heartbeat comes each 10, and after a lost one only in 35


class KitGuard(FLComponent):
    """Looks at a kit again, where no script of it did: it is as it was signed, and runs once."""

    def __init__(self) -> None:
        super().__init__()
        self._lock: IO[str] | None = None
        self._copy = ""

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Looks at the kit before the site registers, and says which copy of it this is."""
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
            # FLARE ends with a traceback that says nothing of why.
            told = "the orchestrator does not admit it; perhaps a copy of it runs elsewhere"
            todo = "ask the coordinator what the orchestrator's log says"
            print(Refused("not-admitted", told, str(kit), todo), file=sys.stderr, flush=True)


def _has_token(fl_ctx: FLContext) -> bool:
    """Whether the orchestrator has admitted this site."""
    return bool(fl_ctx.get_prop(FLContextKey.CLIENT_TOKEN))


class DuplicateKitGuard(FLComponent):
    """At the orchestrator: while one copy of a hospital's kit runs, no other is admitted.

    FLARE lets the second take over without a word. What always holds: the same copy, started again
    after whatever happened to it, is admitted at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[str, tuple[str, float]] = {}  # hospital: its copy, and when it last spoke

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Notes which copies live, and refuses another one that registers."""
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
                told = f"kit-in-use: a copy of {name}'s kit wants in, and {name} is connected"
                self.log_error(fl_ctx, told)
                if event_type == EventType.CLIENT_REGISTER_RECEIVED:
                    raise NotAuthenticated(told)
                return
            self._seen[name] = (copy, now)
