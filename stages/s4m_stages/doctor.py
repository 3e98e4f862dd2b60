"""`s4m doctor`: what is wrong with the installation, the machine or an experiment, and how to fix it."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from s4m_pipeline.core import console
from s4m_pipeline.core.paths import experiment_folder
from s4m_stages.arguments import Overrides

if TYPE_CHECKING:
    from s4m_pipeline.apps.doctor.finding import Finding


def doctor(
    config: Annotated[
        Path | None, typer.Argument(help="Also check this experiment: data, weights, disk and memory.")
    ] = None,
    overrides: Overrides = None,
    work_dir: Annotated[
        Path | None,
        typer.Option(help="Folder of the results.", show_default="work_dirs, or the experiment's"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Check what runs depend on: ok, warn or fix, with the command that fixes it. Exit code 1 on any fix."""
    from s4m_pipeline.apps.doctor.diagnosis import diagnose

    folder = experiment_folder(config, work_dir) if config else work_dir or Path("work_dirs")
    findings = diagnose(folder, config, overrides or [])
    if as_json:
        print(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=1))
    else:
        _print(findings)
    if any(finding.status == "fix" for finding in findings):
        raise typer.Exit(1)


def _print(findings: "list[Finding]") -> None:
    from rich.text import Text

    colors = {"ok": "green", "warn": "yellow", "fix": "bold red"}
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        line = Text(f"{finding.status:4}", style=colors[finding.status])
        line.append(f"  {finding.name:{width}}  {finding.text}", style="default")
        console.result.print(line)
        if finding.command and finding.status != "ok":
            console.result.print(Text(f"{'':{width + 8}}{finding.command}", style="bold"))
    counts = {status: sum(finding.status == status for finding in findings) for status in ("fix", "warn")}
    verdict = f"{counts['fix']} to fix, {counts['warn']} warnings"
    console.result.print(verdict, style="bold red" if counts["fix"] else "green")
