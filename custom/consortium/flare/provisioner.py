"""Runs FLARE's provisioning in this process, without its output."""

import contextlib
import copy
import io
from pathlib import Path
from typing import Any

from nvflare.lighter.constants import CtxKey
from nvflare.lighter.prov_utils import prepare_builders
from nvflare.lighter.provision import prepare_project
from nvflare.lighter.provisioner import Provisioner

from consortium.core.errors import EnvironmentProblem

STATE = "state/cert.json"
"""Path of FLARE's state in a project's workspace: the root key, all keys and certificates."""


def provision(project: dict[str, Any], workspace: Path) -> Path:
    """Makes all kits of a project.

    Args:
        project: content of a checked project file.
        workspace: FLARE's; holds a folder named like the project with the state of earlier runs.

    Returns:
        The folder that holds one kit per participant.

    Raises:
        EnvironmentProblem: `provisioning-failed`.
    """
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            content = copy.deepcopy(project)
            content["gen_scripts"] = False
            provisioner = Provisioner(str(workspace), prepare_builders(content))
            context = provisioner.provision(prepare_project(content))
        except Exception as error:
            raise EnvironmentProblem(
                "provisioning-failed", str(error), "", "see --debug"
            ) from error
    if context.get(CtxKey.BUILD_ERROR):
        message = "; ".join(context.get_errors()) or printed.getvalue()[-300:]
        raise EnvironmentProblem("provisioning-failed", message, "", "correct the project file")
    return Path(context.get_result_location())
