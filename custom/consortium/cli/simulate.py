"""`scripts/simulate JOB --data DIR --workspace DIR`: runs a job on a folder of hospitals."""

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from consortium.cli.outcome import print_result
from consortium.cli.progress import RunProgress, stderr_console
from consortium.cli.run import DebugOption, SmallestTraining, run_app
from consortium.core.errors import Incomplete
from consortium.runs.centralised import add_centralised
from consortium.runs.in_process import InProcessRun
from consortium.runs.simulator import Simulation
from consortium.study.job_folder import find_job
from consortium.tasks.folders import hospital_folders

app = typer.Typer(add_completion=False)


class Engine(StrEnum):
    """The engine that runs a job."""

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
    data: Annotated[Path, typer.Option(help="Folder with one folder for each hospital.")],
    workspace: Annotated[Path, typer.Option(help="Folder for the run; new or empty.")],
    settings: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Replaces the job's settings.json."),
    ] = None,
    rounds: Annotated[int | None, typer.Option(help="Short for --set rounds=N.")] = None,
    seed: Annotated[int | None, typer.Option(help="Short for --set seed=S.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting.")
    ] = None,
    quorum: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Change the quorum: minimum, mandatory, ..."),
    ] = None,
    smallest_group: Annotated[
        int, typer.Option(help="Hospitals send no metric over fewer patients.", min=1)
    ] = 5,
    smallest_training: SmallestTraining = 5,
    centralised: Annotated[
        bool,
        typer.Option(
            "--centralised",
            help="Also train a centralised model, for comparison.",
        ),
    ] = False,
    engine: Annotated[
        Engine,
        typer.Option(
            help="in-process: takes seconds and gives exactly the numbers of a federation; proves"
            " what the model learns. flare: FLARE's simulator; also proves that the processes,"
            " codecs and configuration of a federation run this job."
        ),
    ] = Engine.IN_PROCESS,
    resume: Annotated[
        bool,
        typer.Option(help="Continue the run in the workspace; with --rounds for more rounds."),
    ] = False,
    debug: DebugOption = False,
) -> None:
    """Run a job on this machine, with the hospitals in DIR.

    The default engine needs no FLARE: starting FLARE takes longer than training, and simulations
    are for trying settings. Run a job once with --engine flare before you submit it. Exit code 0
    only if every hospital took part to the end.
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
        smallest_training=smallest_training,
    )
    with RunProgress() as progress:
        result = simulation.run(progress)
    try:
        if centralised and result["complete"]:
            console = stderr_console()
            console.print("Training a centralised model on all patients, for comparison")
            folders = hospital_folders(data.resolve())
            result = add_centralised(workspace.resolve(), folders, smallest_group=smallest_group)
    finally:
        print_result(result, workspace)
    if not result["complete"]:
        raise Incomplete(
            "incomplete",
            result["reason"],
            str(workspace),
            "see errors.log in its folder hospitals/" + _LOGS[engine],
        )


if __name__ == "__main__":
    run_app(app)
