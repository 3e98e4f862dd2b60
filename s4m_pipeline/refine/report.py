"""What refine prints at the end of a session and of a generation."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from s4m_pipeline import console
from s4m_pipeline.refine.record import ShardRecord
from s4m_pipeline.refine.shard import list_unreadable


def print_session(session: ShardRecord) -> None:
    """What this session did, in a few lines."""
    rate = session.images / session.seconds
    stages = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in session.stage_seconds.items())
    console.progress.print(
        f"{session.images} images in {session.seconds:.1f} s, {rate:.2f} a second ({stages})", soft_wrap=True
    )
    if session.unreadable:
        names = list_unreadable((name, reason) for name, reason in session.unreadable.values())
        console.progress.print(
            f"{len(session.unreadable)} unreadable images have no labels:\n{names}", markup=False
        )


def print_quality(quality: Mapping[str, Any], classes: Sequence[str]) -> None:
    """SQ and CA before and after refinement, over all and by class, as stored with the generation."""

    def cell(name: str) -> str:
        value = quality.get(name)
        return "-" if value is None else f"{value:.1f}"

    names = ("SQ before", "SQ after", "CA before", "CA after")
    table = Table("class", title="Quality of the pseudo-labels, percent")
    for name in names:
        table.add_column(name, justify="right")
    table.add_row("all", *map(cell, names))
    for label in classes:
        table.add_row(label, *(cell(f"{name}, {label}") for name in names))
    console.result.print(table)
    console.result.print(
        f"{quality['instances measured']} instances: {cell('improved')} % improved, "
        f"{cell('worsened')} % worsened by refinement"
    )
