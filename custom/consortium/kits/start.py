"""`python3 -m consortium.kits.start KIT`: the check that a kit's own scripts run before they start.

Ends with 0, or with one sentence on stderr that names the first fault.
"""

import sys
from pathlib import Path

from consortium.core.errors import ConsortiumError, Refused
from consortium.kits.hospital import HOSPITAL
from consortium.kits.lock import hold_kit
from consortium.kits.preflight import probe_orchestrator, probe_own_port
from consortium.kits.verify import KitReport, verify_kit


def check_kit(kit: Path) -> KitReport:
    """Checks a kit before it is started.

    Raises:
        Refused: `kit-in-use`, `bad-kit` with the first finding, or what `verify_kit` raises.
    """
    hold_kit(kit).close()
    report = verify_kit(kit)
    if report.findings:
        first, more = report.findings[0], len(report.findings) - 1
        and_more = f" (and {more} more)" if more else ""
        raise Refused(
            "bad-kit",
            f"{first.code}, {first.detail}{and_more}",
            str(kit / first.file),
            _advice(kit, first.code),
        )
    return report


def _advice(kit: Path, code: str) -> str:
    if code == "further-right":
        return f"remove the right, or repeat these words in further_rights of {HOSPITAL}"
    return f"run consortium verify-kit {kit} and ask the coordinator"


def check_orchestrator(kit: Path, report: KitReport) -> None:
    """Refuses a wrong orchestrator, which FLARE would retry for ever without a message.

    An orchestrator that is down is not refused: FLARE waits for it.

    Raises:
        Refused: `wrong-orchestrator`.
    """
    for check in probe_orchestrator(kit, report.manifest):
        if check.name == "orchestrator" and check.level == "error":
            raise Refused("wrong-orchestrator", check.result, str(kit), check.todo)


def check_own_port(kit: Path) -> None:
    """Refuses a port in use: FLARE would share it with the other process, or retry for ever.

    Raises:
        Refused: `port-in-use`.
    """
    check = probe_own_port(kit)
    if check.level == "error":
        raise Refused("port-in-use", check.result, str(kit), check.todo)


def main() -> None:
    """Entry point of the scripts."""
    kit = Path(sys.argv[1])
    try:
        report = check_kit(kit)
        for right in report.further_rights:
            print(f"this hospital grants a right beyond the shipped ones: {right}", file=sys.stderr)
        if report.manifest.role == "client":
            check_orchestrator(kit, report)
        elif report.manifest.role == "server":
            check_own_port(kit)
    except ConsortiumError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
