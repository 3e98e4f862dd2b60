"""`s4m cache`: inspect, verify and repair a pseudo-label cache, compare generations, and import labels."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from s4m_pipeline.core import console
from s4m_pipeline.core.errors import UserError
from s4m_stages.cache_tables import print_json, print_repairs, print_summary, print_verification, report

if TYPE_CHECKING:
    from s4m_cache.generation import Generation

Result = TypeVar("Result")

app = typer.Typer(help="Inspect, verify, repair, compare and import pseudo-labels.", no_args_is_help=True)


def folder_or_address(text: str) -> Path:
    """The cache itself, if the folder of an experiment is given."""
    from s4m_pipeline.experiment.cache_place import cache_of

    return cache_of(text)


Root = Annotated[
    Path,
    typer.Argument(
        metavar="CACHE",
        help="Folder or address of the cache (s3://...), or folder of its experiment (work_dirs/NAME).",
        show_default=False,
        parser=folder_or_address,
    ),
]
Number = Annotated[int | None, typer.Option("--generation", "-g", min=1, help="Number of a generation.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]


@app.command()
def info(root: Root, generation: Number = None, as_json: Json = False) -> None:
    """List all generations, and show the contents and origin of one (by default the newest)."""
    from s4m_cache.generations import current_number
    from s4m_cache.summary import state, summarize

    chosen = _chosen(root, generation)[-1]
    states = [state(known) for known in _chosen(root, None)]
    current, summary = current_number(root), summarize(chosen)
    if as_json:
        print_json(
            {"current": current or None, "generations": states, "of": chosen.number, "summary": summary}
        )
        return
    rows = [
        [
            str(entry.number),
            _status(entry.number, current, entry.published_at),
            f"{entry.num_stored} of {entry.num_images}",
            str(entry.num_parts),
            f"{entry.size_bytes / 1e6:.2f} MB",
            f"{entry.size_bytes / max(entry.num_stored, 1):.0f}",
        ]
        for entry in states
    ]
    console.print_table(
        f"{root}", ["generation", "status", "labeled", "parts", "size", "bytes / image"], rows
    )
    print_summary(chosen, summary)


@app.command()
def verify(root: Root, generation: Number = None, as_json: Json = False) -> None:
    """Compare every byte of all generations, or of one, with its checksum; exit code 1 on any damage."""
    from s4m_cache.errors import DamagedError
    from s4m_cache.generations import current_number
    from s4m_cache.verify import verify as verify_generation

    checked, faults = _each(_chosen(root, generation), verify_generation)
    try:
        current_number(root)
    except DamagedError as damage:
        faults.append(str(damage))
    sound = not faults and all(found.sound for found in checked.values())
    if as_json:
        reports = [report(known, found) for known, found in checked.items()]
        print_json({"sound": sound, "faults": faults, "generations": reports})
    else:
        for line in faults:
            console.result.print(line)
        for known, found in checked.items():
            print_verification(known, found)
    raise typer.Exit(0 if sound else 1)


@app.command()
def repair(root: Root, generation: Number = None, as_json: Json = False) -> None:
    """Remove damaged labels image by image; intact ones are kept, and refine makes the removed ones again."""
    from s4m_cache.verify import repair as repair_generation
    from s4m_cache.verify import restore_current

    restored = restore_current(root)
    repairs, faults = _each(_chosen(root, generation), repair_generation)
    if as_json:
        reports = [{"generation": known.number, **asdict(done)} for known, done in repairs.items()]
        print_json({"current_restored": restored is not None, "faults": faults, "generations": reports})
    else:
        print_repairs(repairs, restored, faults)
    raise typer.Exit(1 if faults else 0)


@app.command()
def diff(
    root: Root,
    old: Annotated[int, typer.Argument(metavar="A", help="Number of the earlier generation.")],
    new: Annotated[int, typer.Argument(metavar="B", help="Number of the later one.")],
    as_json: Json = False,
) -> None:
    """Compare generations A and B: instances gained, lost, kept and relabeled, and the IoU of the matches."""
    from s4m_cache.compare import compare
    from s4m_cache.generation import Generation
    from s4m_cache.reader import CacheReader

    with CacheReader(Generation(root, old)) as before, CacheReader(Generation(root, new)) as after:
        change = compare(before, after)
    if as_json:
        print_json(asdict(change))
        return
    rows = [
        ["images in both", f"{change.num_images}"],
        [f"images in {old} only, in {new} only", f"{change.only_old}, {change.only_new}"],
        ["images with a change", f"{change.num_changed}"],
        ["instances kept", f"{change.kept}"],
        ["instances relabeled", f"{change.relabeled}"],
        ["instances gained", f"{change.gained}"],
        ["instances lost", f"{change.lost}"],
        ["mean IoU of matches", f"{change.mean_iou:.3f}"],
    ]
    console.print_table(f"generation {old} -> {new}", ["", "count"], rows)


@app.command()
def gc(
    root: Root,
    keep: Annotated[int, typer.Option(min=1, help="Generations to keep, the current one included.")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would be removed.")] = False,
    as_json: Json = False,
) -> None:
    """Remove old generations that no process reads, their embeddings, and files of killed processes."""
    from s4m_cache.generations import collect_garbage
    from s4m_cache.storage import is_remote

    _chosen(root, None)  # refuse a folder that is not a cache
    if is_remote(root):
        raise UserError(
            f"{root}: in an object store nobody can tell whether a process reads a generation.\n"
            "Remove the folders of generations that none needs with the store's own tools."
        )
    removed = [str(path) for path in collect_garbage(root, keep, dry_run=dry_run)]
    if as_json:
        print_json({"would be removed" if dry_run else "removed": removed})
        return
    for path in removed:
        console.result.print(f"{'would remove' if dry_run else 'removed'} {path}")
    console.result.print(f"{len(removed)} {'would be removed' if dry_run else 'removed'}.")


@app.command("import")
def import_(
    root: Root,
    annotations: Annotated[Path, typer.Argument(metavar="JSON", help="COCO instance annotations.")],
    generation: Annotated[
        int | None,
        typer.Option(
            "--generation",
            "-g",
            min=1,
            help="Number of the generation.",
            show_default="that of an earlier import of this file, or a new one",
        ),
    ] = None,
    unlabeled: Annotated[
        Path | None,
        typer.Option(
            help="COCO JSON or folder of the unlabeled images, as data.unlabeled: decides the images' ids.",
            show_default="the images of the current generation, or else those of JSON",
        ),
    ] = None,
) -> None:
    """Replace labels of the current generation by COCO annotations, and publish the result as a new one.

    Images are matched by file name; those that JSON does not list keep their labels.
    """
    from s4m_cache.importing import import_coco
    from s4m_pipeline.data.unlabeled import unlabeled_names

    names = dict(unlabeled_names(unlabeled)) if unlabeled else None
    made = import_coco(annotations, root, generation, names, console.progress.print)
    console.result.print(f"{made.path}: {made.image_ids.size} images, published")


@app.command()
def publish(root: Root, generation: Number = None) -> None:
    """Make a complete generation (by default the newest) the current one, which trainings read.

    It may be an earlier one than that which is current now.
    """
    from s4m_cache.generations import publish as publish_generation

    chosen = _chosen(root, generation)[-1]
    publish_generation(chosen, back=True)
    console.result.print(f"{chosen.name} is current")


def _chosen(root: Path, number: int | None) -> "list[Generation]":
    """The generation with that number, or all there are."""
    from s4m_cache.errors import CacheError
    from s4m_cache.generation import Generation
    from s4m_cache.generations import generations

    if number:
        return [Generation(root, number)]
    if known := generations(root):
        return known
    raise CacheError(f"{root}: not a cache, or without generations. Make one with `s4m refine`.")


def _status(number: int, current: int, published_at: str | None) -> str:
    if published_at is None:
        return "incomplete after a repair" if number == current else "in progress"
    return f"{'current' if number == current else 'published'} {published_at[:16]}"


def _each(
    chosen: "list[Generation]", work: "Callable[[Generation], Result]"
) -> "tuple[dict[Generation, Result], list[str]]":
    """Result of `work` for each generation, and the errors of those whose description is damaged."""
    from s4m_cache.errors import DamagedError

    results, faults = {}, []
    for generation in chosen:
        try:
            results[generation] = work(generation)
        except DamagedError as damage:
            faults.append(str(damage))
    return results, faults
