"""A hospital's own choices: the folder of its data and what may leave; no job can set them.

In our startup kits they are in `local/hospital.json` (see `consortium.kits.hospital`), which never
reaches the server; the component `site_data` in the kit's `local/privacy.json` reads it. In another
kit the component has them as arguments:

    {"scopes": [{"name": "default"}], "default_scope": "default",
     "components": [{"id": "site_data", "path": "consortium.flare.client.components.SiteData",
                     "args": {"data": "/srv/tumours"}}]}

FLARE builds these components only if there is a scope. Without one, environment variables of the
site's own process set them; `{site}` stands for its name.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_context import FLContext
from pydantic import ValidationError

from consortium.core.errors import UsageError
from consortium.core.names import is_hospital_name
from consortium.core.site_policy import HOME, Privacy, Site
from consortium.flare.job import Job
from consortium.kits.hospital import read_hospital
from consortium.orchestration.owners import claim_run

DATA, STATE = "CONSORTIUM_DATA", "CONSORTIUM_STATE"
SMALLEST_GROUP, SHARE_MODEL = "CONSORTIUM_SMALLEST_GROUP", "CONSORTIUM_SHARE_MODEL"
PRIVACY = "CONSORTIUM_PRIVACY"


class SiteData(FLComponent):
    """A hospital's own choices.

    Args:
        data: the hospital's folder; `{site}` in it stands for the hospital's name. If it is empty,
            all choices come from the kit's `local/hospital.json`.
        state: folder for the hospital's state; by default in the site's workspace.
        smallest_group: metrics over fewer patients are not sent.
        share_local_model: whether other hospitals may score the model trained here.
        privacy: what it protects in every job, as in `local/hospital.json`.
    """

    def __init__(
        self,
        data: str = "",
        state: str = "",
        smallest_group: int = 5,
        share_local_model: bool = False,
        privacy: Privacy | Mapping[str, Any] | None = None,
    ):
        super().__init__()
        self.privacy = Privacy.model_validate({} if privacy is None else privacy)
        self.data, self.state = data, state
        self.smallest_group, self.share_local_model = smallest_group, share_local_model


def find_site(job: Job, fl_ctx: FLContext) -> Site:
    """Reads the hospital's own choices, and makes a new run's folder the submitter's.

    The choices come from the site's component, its kit or its environment.

    Raises:
        UsageError: `no-data-folder`, if the hospital has set none, or a value is wrong.
        Refused: `other-submitter`, if the run belongs to somebody else.
    """
    name: str = fl_ctx.get_identity_name()
    if not is_hospital_name(name):
        raise UsageError("bad-hospital-name", "not a hospital's name", "", "ask the coordinator")
    choices = fl_ctx.get_engine().get_component("site_data")
    if isinstance(choices, SiteData) and not choices.data:
        own = read_hospital(job.root)
        choices = SiteData(
            own.data or "",
            own.state or "",
            own.smallest_group,
            own.share_local_model,
            own.privacy,
        )
    elif not isinstance(choices, SiteData):
        try:
            choices = SiteData(
                os.environ.get(DATA, ""),
                os.environ.get(STATE, ""),
                int(os.environ.get(SMALLEST_GROUP, "5")),
                os.environ.get(SHARE_MODEL, "") == "yes",
                Privacy.model_validate_json(os.environ.get(PRIVACY, "{}")),
            )
        except ValidationError:
            raise UsageError(
                "bad-site-setting", "not the section privacy", PRIVACY, "correct the JSON"
            ) from None
        except ValueError:
            raise UsageError(
                "bad-site-setting",
                "not a number, or not the section privacy of hospital.json",
                f"{SMALLEST_GROUP}, {PRIVACY}",
                "correct it",
            ) from None
    if not choices.data:
        raise UsageError(
            "no-data-folder",
            "this hospital has not set its data folder",
            f"hospital {name}",
            f"set it in local/hospital.json, or set {DATA} if the kit is not ours",
        )
    folder = choices.state.replace("{site}", name)
    state = Path(folder) if folder else job.root / "consortium"
    claim_run(state / job.run, job.submitter)
    return Site(
        name=name,
        data=Path(choices.data.replace("{site}", name)),
        state=state / job.run,
        smallest_group=choices.smallest_group,
        share_local_model=choices.share_local_model,
        privacy=choices.privacy,
        home=state / HOME / name,
    )
