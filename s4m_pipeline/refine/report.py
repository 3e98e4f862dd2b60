"""What refine prints at the end of a session and of a generation."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from cache.generation import Generation
from s4m_pipeline import console
from s4m_pipeline.refine.photos import list_unreadable
from s4m_pipeline.refine.record import ShardRecord


def print_session(session: ShardRecord) -> None:
    """What this session did, in a few lines."""
    rate = session.images / session.seconds
    stages = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in session.stage_seconds.items())
    console.progress.print(
        f"{session.images} images in {session.seconds:.1f} s, {rate:.2f} a second ({stages})", soft_wrap=True
    )
    if session.unreadable:
        names = list_unreadable((name, reason) for name, reason in session.unreadable.values())
        console.progress.print(f"{len(session.unreadable)} unreadable images have no labels:\n{names}")
    if session.full:
        console.progress.print(
            f"{session.full} images have as many labels as the teacher has queries, and may hold more "
            "objects: a network with a larger model.panoptic_head.num_queries finds more.",
            soft_wrap=True,
        )


def print_publication(generation: Generation, publication: Mapping[str, Any]) -> None:
    """What is known of a generation that was just published."""
    quality = publication["quality"]
    if "instances measured" in quality:
        _print_quality(quality, generation.spec.classes)
    if "held_out" in quality:
        held_out, names = quality["held_out"], ("PQ", "SQ", "CA", "recall")
        figures = "  ".join(f"{name} {_cell(held_out, name)}" for name in names)
        console.result.print(f"On the validation images, percent: {figures}")
    console.result.print(f"{generation.name} is published.")


def _print_quality(quality: Mapping[str, Any], classes: Sequence[str]) -> None:
    """SQ and CA before and after refinement, over all and by class, as stored with the generation."""
    names = ("SQ before", "SQ after", "CA before", "CA after")
    table = Table("class", title="Quality of the pseudo-labels, percent")
    for name in names:
        table.add_column(name, justify="right")
    table.add_row("all", *(_cell(quality, name) for name in names))
    for label in classes:
        table.add_row(label, *(_cell(quality, f"{name}, {label}") for name in names))
    console.result.print(table)
    console.result.print(
        f"{quality['instances measured']} instances: {_cell(quality, 'improved')} % improved, "
        f"{_cell(quality, 'worsened')} % worsened by refinement"
    )


def _cell(figures: Mapping[str, Any], name: str) -> str:
    value = figures.get(name)
    return "-" if value is None else f"{value:.1f}"
