"""`scripts/simulate JOB --data DIR --workspace DIR`: a job over a folder of hospitals."""

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from consortium.cli.outcome import print_outcome
from consortium.cli.progress import RunProgress, stderr_console
from consortium.cli.run import DebugOption, run_app
from consortium.core.errors import Incomplete
from consortium.runs.centralised import add_centralised
from consortium.runs.in_process import InProcessRun
from consortium.runs.simulator import Simulation
from consortium.study.job_folder import find_job
from consortium.tasks.folders import hospital_folders

app = typer.Typer(add_completion=False)


class Engine(StrEnum):
    """Where a job runs."""

    IN_PROCESS = "in-process"
    FLARE = "flare"


_RUNS: Mapping[Engine, type[InProcessRun | Simulation]] = {
    Engine.IN_PROCESS: InProcessRun,
    Engine.FLARE: Simulation,
}
_LOGS = {Engine.IN_PROCESS: "", Engine.FLARE: ", then federation.log"}


@app.command()
def simulate(
    job: Annotated[str, typer.Argument(help="A job's folder, or its name below jobs/.")],
    data: Annotated[Path, typer.Option(help="Holds one folder a hospital.")],
    workspace: Annotated[Path, typer.Option(help="What the run leaves; new or empty.")],
    settings: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Takes the place of the job's settings.json."),
    ] = None,
    rounds: Annotated[int | None, typer.Option(help="Short for --set rounds=N.")] = None,
    seed: Annotated[int | None, typer.Option(help="Short for --set seed=S.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting.")
    ] = None,
    quorum: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="What a round needs: minimum, mandatory, ..."),
    ] = None,
    smallest_group: Annotated[
        int, typer.Option(help="A metric over fewer patients is not sent by a hospital.", min=1)
    ] = 5,
    pooled: Annotated[
        bool,
        typer.Option(
            "--centralised",
            help="Then train one model on all patients in one place, to compare with.",
        ),
    ] = False,
    engine: Annotated[
        Engine,
        typer.Option(
            help="in-process: the same numbers as a federation, to the bit, in seconds; proves what"
            " the model learns. flare: FLARE's simulator; proves besides that the very processes,"
            " codecs and configuration of a federation run this job."
        ),
    ] = Engine.IN_PROCESS,
    resume: Annotated[
        bool,
        typer.Option(help="Go on with the run in the workspace, with --rounds to more rounds."),
    ] = False,
    debug: DebugOption = False,
) -> None:
    """Run a job over the hospitals in DIR, on this machine.

    By default in this process and one more a core, for trying settings is what it is for and
    starting FLARE takes longer than training; run a job once with --engine flare before it is
    submitted. Ends with 0 only if every hospital took part to the end.
    """
    assignments = list(set_ or [])
    assignments += [f"rounds={rounds}"] if rounds is not None else []
    assignments += [f"seed={seed}"] if seed is not None else []
    simulation = _RUNS[engine](
        job=find_job(job),
        data=data,
        workspace=workspace,
        settings=settings,
        assignments=assignments,
        quorum=quorum or [],
        resume=resume,
        smallest_group=smallest_group,
    )
    with RunProgress() as progress:
        result = simulation.run(progress)
    try:
        if pooled and result["complete"]:
            console = stderr_console()
            console.print("One model is trained on all patients in one place, for comparison")
            folders = hospital_folders(data.resolve())
            result = add_centralised(workspace.resolve(), folders, smallest_group=smallest_group)
    finally:
        print_outcome(result, workspace)
    if not result["complete"]:
        raise Incomplete(
            "incomplete",
            result["reason"],
            str(workspace),
            "see errors.log below hospitals/ there" + _LOGS[engine],
        )


if __name__ == "__main__":
    run_app(app)
