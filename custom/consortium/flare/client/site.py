"""Where a hospital says where its data lie and what it lets out; the job cannot say it.

In our startup kits, `local/hospital.json` (see `consortium.kits.hospital`), which never reaches the
server; the component `site_data` in the kit's `local/privacy.json` reads it. In another kit the
component says it itself:

    {"scopes": [{"name": "default"}], "default_scope": "default",
     "components": [{"id": "site_data", "path": "consortium.flare.client.components.SiteData",
                     "args": {"data": "/srv/tumours"}}]}

FLARE builds the components only where there is a scope. Elsewhere, environment variables of the
site's own process; `{site}` stands for its name.
"""

import os
from pathlib import Path

from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_context import FLContext

from consortium.core.errors import UsageError
from consortium.core.site_policy import Site
from consortium.flare.job import Job
from consortium.kits.hospital import read_hospital

DATA, STATE = "CONSORTIUM_DATA", "CONSORTIUM_STATE"
SMALLEST_GROUP, SHARE_MODEL = "CONSORTIUM_SMALLEST_GROUP", "CONSORTIUM_SHARE_MODEL"


class SiteData(FLComponent):
    """A hospital's own choices.

    Args:
        data: the hospital's folder; `{site}` in it stands for the hospital's name. Where it is
            empty, the kit's `local/hospital.json` says all.
        state: folder for what the hospital keeps; by default in the site's workspace.
        smallest_group: a metric over fewer patients is not sent.
        share_local_model: whether other hospitals may score the model trained here.
    """

    def __init__(
        self,
        data: str = "",
        state: str = "",
        smallest_group: int = 5,
        share_local_model: bool = False,
    ):
        super().__init__()
        self.data, self.state = data, state
        self.smallest_group, self.share_local_model = smallest_group, share_local_model


def find_site(job: Job, fl_ctx: FLContext) -> Site:
    """The hospital's own choices, from its component, its kit or its environment.

    Raises:
        UsageError: `no-data-folder`, where the hospital has not said where its data lie, or what
            it said is wrong.
    """
    name: str = fl_ctx.get_identity_name()
    said = fl_ctx.get_engine().get_component("site_data")
    if isinstance(said, SiteData) and not said.data:
        own = read_hospital(job.root)
        said = SiteData(own.data or "", own.state or "", own.smallest_group, own.share_local_model)
    elif not isinstance(said, SiteData):
        try:
            said = SiteData(
                os.environ.get(DATA, ""),
                os.environ.get(STATE, ""),
                int(os.environ.get(SMALLEST_GROUP, "5")),
                os.environ.get(SHARE_MODEL, "") == "yes",
            )
        except ValueError:
            raise UsageError(
                "bad-site-setting", "not a number", SMALLEST_GROUP, "give a number of patients"
            ) from None
    if not said.data:
        raise UsageError(
            "no-data-folder",
            "this hospital has not said where its data lie",
            f"hospital {name}",
            f"write it into local/hospital.json, or set {DATA} where the kit is not ours",
        )
    state = Path(said.state.replace("{site}", name)) if said.state else job.root / "consortium"
    return Site(
        name=name,
        data=Path(said.data.replace("{site}", name)),
        state=state / job.run,
        smallest_group=said.smallest_group,
        share_local_model=said.share_local_model,
    )
