"""`s4m ablation`: the paper's ablations, every row with several seeds."""

import os
from pathlib import Path
from typing import Annotated

import typer

from s4m_pipeline.apps.ablation.tables import TABLES, TableName
from s4m_pipeline.core import console
from s4m_pipeline.core.devices import divided
from s4m_pipeline.core.processes import Launcher
from s4m_stages.arguments import Config, Devices, Overrides


def ablation(
    config: Config,
    table: Annotated[TableName, typer.Option(help="What to compare.")] = "components",
    seeds: Annotated[int, typer.Option(min=1, help="Repeat every row with seeds 0, 1, ...")] = 3,
    rows: Annotated[str, typer.Option(metavar="NAME,...", help="Only these.", show_default="all rows")] = "",
    jobs: Annotated[int, typer.Option(min=1, help="Trainings at a time.")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would be done.")] = False,
    overrides: Overrides = None,
    work_dir: Annotated[
        Path | None,
        typer.Option(help="Folder of all tables.", show_default="work_dirs/<config name>-ablation"),
    ] = None,
    devices: Devices = 1,
) -> None:
    """Train and evaluate every row, and print its AP beside the paper's.

    Rows share stages, also with other tables. Finished stages are skipped: repeat the command to resume.
    """
    from s4m_cache.locks import FileLock
    from s4m_pipeline.apps.ablation.experiments import GROUPS, plan_trials, train_all
    from s4m_pipeline.apps.ablation.results import show_table
    from s4m_pipeline.apps.ablation.tables import HIGHEST, LOWEST

    chosen, root = TABLES[table], work_dir or Path(f"work_dirs/{config.stem}-ablation")
    known = {row.name: row for row in chosen.rows}
    wanted = rows.split(",") if rows else list(known)
    if unknown := set(wanted) - known.keys():
        raise typer.BadParameter(f"--rows: no {', '.join(unknown)} among {', '.join(known)}")
    picked = [known[name] for name in wanted]
    trials = plan_trials(config, overrides or [], root, chosen.network, picked, seeds)
    both = [LOWEST, HIGHEST] if chosen.network == "student" else []
    bounds = plan_trials(config, overrides or [], root, chosen.network, both, seeds)
    for network in GROUPS:
        ap = {trial.folders[network]: trial.ap(network) for trial in trials if network in trial.folders}
        console.progress.print(f"{len(ap)} {network}s, {len(ap) - [*ap.values()].count(None)} of them done")
    if dry_run:
        return
    os.environ.update(divided(jobs))
    root.mkdir(parents=True, exist_ok=True)
    console.progress.print(
        f"Working in {root}, once no other process does; logs: STAGE/ID.log", soft_wrap=True
    )
    with FileLock(root / ".lock", exclusive=True, wait=True) as lock, Launcher() as launcher:
        finished = train_all(trials, devices, jobs, launcher, lock)
    show_table(root / f"{table}.md", chosen, trials, bounds)
    if launcher.received:
        console.progress.print("Stopped by a signal; the same command resumes.")
    raise SystemExit(128 + launcher.received if launcher.received else int(not finished))
