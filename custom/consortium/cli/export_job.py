"""`scripts/export-job JOB OUT`: writes a job to submit, with or without the package."""

from datetime import UTC, datetime, time
from pathlib import Path
from typing import Annotated

import typer

from consortium.cli.run import DebugOption, run_app
from consortium.cli.terminal import say
from consortium.study.job_folder import export_job, find_job

app = typer.Typer(add_completion=False)


@app.command()
def export(
    job: Annotated[str, typer.Argument(help="A job's folder, or its name below jobs/.")],
    out: Annotated[Path, typer.Argument(help="The job folder to write; must not exist.")],
    hospital: Annotated[
        list[str] | None, typer.Option(help="A hospital that must take part; repeatable.")
    ] = None,
    settings: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Replaces the job's settings.json."),
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting.")
    ] = None,
    quorum: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Change the quorum: minimum, mandatory, ..."),
    ] = None,
    continue_: Annotated[
        str,
        typer.Option(
            "--continue",
            metavar="RUN",
            help="Continue this run of the orchestrator, for more rounds or with more hospitals.",
        ),
    ] = "",
    until: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%d"],
            metavar="DATE",
            help="The last day, in UTC, on which the job may begin; by default in 30 days.",
        ),
    ] = None,
    configuration_only: Annotated[
        bool,
        typer.Option("--configuration-only", help="Without the package, for our startup kits."),
    ] = False,
    debug: DebugOption = False,
) -> None:
    """Write the job folder to submit, by default with the package in it."""
    export_job(
        find_job(job),
        out,
        hospitals=hospital or [],
        settings=settings,
        assignments=set_ or [],
        quorum=quorum or [],
        run=continue_,
        until=datetime.combine(until, time(23, 59, 59), UTC) if until else None,
        with_package=not configuration_only,
    )
    say(f"{out}: submit it with FLARE's console (submit_job with its absolute path)")


if __name__ == "__main__":
    run_app(app)
