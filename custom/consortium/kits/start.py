"""`python3 -m consortium.kits.start KIT`: the check that a kit's own scripts run before they start.

Ends with 0, or with one sentence on stderr for each thing that is wrong.
"""

import sys
from pathlib import Path

from consortium.core.errors import ConsortiumError, Refused
from consortium.kits.lock import hold_kit
from consortium.kits.preflight import look_at_orchestrator, look_at_own_port
from consortium.kits.verify import Verdict, verify_kit


def check_kit(kit: Path) -> Verdict:
    """Looks at a kit before it is started.

    Raises:
        Refused: `kit-in-use`, `bad-kit` with the first finding, or what `verify_kit` raises.
    """
    hold_kit(kit).close()
    verdict = verify_kit(kit)
    if verdict.findings:
        first, more = verdict.findings[0], len(verdict.findings) - 1
        and_more = f" (and {more} more)" if more else ""
        raise Refused(
            "bad-kit",
            f"{first.code}, {first.detail}{and_more}",
            str(kit / first.file),
            f"run consortium verify-kit {kit} and ask the coordinator",
        )
    return verdict


def check_orchestrator(kit: Path, verdict: Verdict) -> None:
    """Refuses what FLARE would try again for ever, in silence; an orchestrator that is down is not.

    Raises:
        Refused: `wrong-orchestrator`.
    """
    for check in look_at_orchestrator(kit, verdict.manifest):
        if check.what == "orchestrator" and check.level == "error":
            raise Refused("wrong-orchestrator", check.found, str(kit), check.todo)


def check_own_port(kit: Path) -> None:
    """Refuses where something listens already; FLARE would share the port with it, or try for ever.

    Raises:
        Refused: `port-in-use`.
    """
    check = look_at_own_port(kit)
    if check.level == "error":
        raise Refused("port-in-use", check.found, str(kit), check.todo)


def main() -> None:
    """Entry point of the scripts."""
    kit = Path(sys.argv[1])
    try:
        verdict = check_kit(kit)
        if verdict.manifest.role == "client":
            check_orchestrator(kit, verdict)
        elif verdict.manifest.role == "server":
            check_own_port(kit)
    except ConsortiumError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
