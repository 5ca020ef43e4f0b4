"""The builder that completes FLARE's kits: safe defaults, a check at the start, a signature.

It stands second in `project.yml`, right after FLARE's `WorkspaceBuilder`: FLARE calls `finalize` in
reverse order, so this one sees finished kits before they are moved to their final folder.
"""

import json
from pathlib import Path

from nvflare.lighter.constants import CtxKey, ParticipantType, PropKey
from nvflare.lighter.entity import Participant
from nvflare.lighter.spec import Builder, Project, ProvisionContext

from consortium.kits.manifest import sign_kit
from consortium.kits.readme import write_readme
from consortium.kits.site_defaults import STARTING_SCRIPTS, local_files, with_check

_REPLACED = {
    ParticipantType.SERVER: ("local/resources.json.default", "local/privacy.json.sample"),
    ParticipantType.CLIENT: ("local/resources.json.default", "local/privacy.json.sample"),
    ParticipantType.ADMIN: ("startup/readme.txt",),
}
"""Files of FLARE's that ours replace, in addition to its `readme.txt`."""


class KitBuilder(Builder):
    """Completes and signs every participant's kit."""

    def finalize(self, project: Project, ctx: ProvisionContext) -> None:
        """Writes our files, adds the check to the scripts, then lists and signs all files."""
        for participant in project.get_all_participants():
            kit = Path(ctx.get_ws_dir(participant))
            role = _role(participant)
            for name in ("readme.txt", *_REPLACED[participant.type]):
                (kit / name).unlink(missing_ok=True)
            for name, content in local_files(role).items():
                (kit / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
            if participant.type == ParticipantType.SERVER:
                _listen_locally(kit / "startup" / "fed_server.json", participant)
            for name in STARTING_SCRIPTS:
                if (kit / name).is_file():
                    script = (kit / name).read_text(encoding="utf-8")
                    (kit / name).write_text(with_check(script), encoding="utf-8")
            write_readme(kit, participant.name, role, project.name)
            sign_kit(
                kit,
                participant=participant.name,
                role=role,
                organisation=participant.org,
                project=project.name,
                key=ctx[CtxKey.ROOT_PRI_KEY],
            )
        # FLARE leaves the root's private key readable for everybody.
        for path in Path(ctx.get_state_dir()).iterdir():
            path.chmod(0o600)


def _listen_locally(file: Path, server: Participant) -> None:
    """Makes an orchestrator listen on loopback only, if all its names are loopback names."""
    hosts = [server.get_default_host(), *(server.get_prop("host_names") or [])]
    if all(host == "localhost" or str(host).startswith("127.") for host in hosts):
        content = json.loads(file.read_text(encoding="utf-8"))
        service = content["servers"][0]["service"]
        service["target"] = f"127.0.0.1:{service['target'].rpartition(':')[2]}"
        file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _role(participant: Participant) -> str:
    if participant.type == ParticipantType.ADMIN:
        return str(participant.get_prop(PropKey.ROLE))
    return str(participant.type)
