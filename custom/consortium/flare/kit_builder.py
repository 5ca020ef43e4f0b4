"""The builder that makes FLARE's kits ours: safe defaults, a check at the start, a signature.

Listed second in `project.yml`, right after FLARE's `WorkspaceBuilder`: FLARE calls `finalize` in
reverse order, so this one sees finished kits before they are moved to their place.
"""

import json
from pathlib import Path

from nvflare.lighter.constants import CtxKey, ParticipantType, PropKey
from nvflare.lighter.entity import Participant
from nvflare.lighter.spec import Builder, Project, ProvisionContext

from consortium.kits.manifest import sign_kit
from consortium.kits.readme import write_readme
from consortium.kits.shipped import STARTING_SCRIPTS, local_files, with_check

_REPLACED = {
    ParticipantType.SERVER: ("local/resources.json.default", "local/privacy.json.sample"),
    ParticipantType.CLIENT: ("local/resources.json.default", "local/privacy.json.sample"),
    ParticipantType.ADMIN: ("startup/readme.txt",),
}
"""What FLARE writes and ours stands for; besides, its `readme.txt`."""


class KitBuilder(Builder):
    """Completes and signs every participant's kit."""

    def finalize(self, project: Project, ctx: ProvisionContext) -> None:
        """Writes our files, puts the check into the scripts, then lists and signs all."""
        for participant in project.get_all_participants():
            kit = Path(ctx.get_ws_dir(participant))
            role = _role(participant)
            for name in ("readme.txt", *_REPLACED[participant.type]):
                (kit / name).unlink(missing_ok=True)
            for name, content in local_files(role).items():
                (kit / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
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


def _role(participant: Participant) -> str:
    if participant.type == ParticipantType.ADMIN:
        return str(participant.get_prop(PropKey.ROLE))
    return str(participant.type)
