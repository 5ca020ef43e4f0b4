"""The second look at a kit, in the site's parent process, where no script of the kit ran.

FLARE ends the process only for an `UnsafeComponentError`; it logs and forgets any other.
"""

from pathlib import Path
from typing import IO

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.fl_exception import UnsafeComponentError

from consortium.errors import ConsortiumError
from consortium.kits.hold import hold_kit
from consortium.kits.start import check_kit


class KitGuard(FLComponent):
    """Refuses to start a kit that is not as it was signed, or that runs already."""

    def __init__(self) -> None:
        super().__init__()
        self._lock: IO[str] | None = None

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Looks at the kit before the site registers."""
        if event_type != EventType.SYSTEM_BOOTSTRAP:
            return
        kit = Path(fl_ctx.get_prop(FLContextKey.WORKSPACE_OBJECT).get_root_dir())
        try:
            check_kit(kit)
            self._lock = hold_kit(kit)
        except ConsortiumError as error:
            self.log_error(fl_ctx, str(error))
            raise UnsafeComponentError(str(error)) from None
