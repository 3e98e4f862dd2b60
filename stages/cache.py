"""`s4m cache`: look into a pseudo-label cache, check it, mend it, compare its generations, and import."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from s4m_pipeline import console
from s4m_pipeline.layout import STUDENT, TEACHER, WEIGHTS

if TYPE_CHECKING:
    from cache.generation import Generation
    from cache.summary import Summary
    from cache.verify import Repair, Verification

Done = TypeVar("Done")

app = typer.Typer(help="Inspect, check, mend, compare and import pseudo-labels.", no_args_is_help=True)

Root = Annotated[Path, typer.Argument(metavar="CACHE", help="The cache's folder.", show_default=False)]
Number = Annotated[int | None, typer.Option("--generation", "-g", min=1, help="Number of a generation.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object instead of tables.")]


@app.command()
def info(root: Root, generation: Number = None, as_json: Json = False) -> None:
    """List the generations; of one (by default the newest), show what made it and what it holds."""
    from cache.generations import current_number
    from cache.summary import state, summarise

    chosen = _chosen(root, generation)[-1]
    states = [state(known) for known in _chosen(root, None)]
    current, summary = current_number(root), summarise(chosen)
    if as_json:
        _print_json(
            {"current": current or None, "generations": states, "of": chosen.number, "summary": summary}
        )
        return
    rows = [
        [
            str(entry.number),
            _standing(entry.number, current, entry.published_at),
            f"{entry.num_stored} of {entry.num_images}",
            str(entry.num_parts),
            f"{entry.size_bytes / 1e6:.2f} MB",
            f"{entry.size_bytes / max(entry.num_stored, 1):.0f}",
        ]
        for entry in states
    ]
    _print_table(f"{root}", ["generation", "state", "labelled", "parts", "size", "bytes / image"], rows)
    _print_summary(chosen, summary)


@app.command()
def verify(root: Root, generation: Number = None, as_json: Json = False) -> None:
    """Compare every byte with its checksum, of all generations or one; exit code 1 if anything is damaged."""
    from cache.errors import DamagedError
    from cache.generations import current_number
    from cache.verify import verify as verify_generation

    checked, faults = _each(_chosen(root, generation), verify_generation)
    try:
        current_number(root)
    except DamagedError as damage:
        faults.append(str(damage))
    sound = not faults and all(found.sound for found in checked.values())
    if as_json:
        reports = [_report(known, found) for known, found in checked.items()]
        _print_json({"sound": sound, "faults": faults, "generations": reports})
    else:
        for line in faults:
            console.result.print(line)
        for known, found in checked.items():
            _print_verification(known, found)
    raise typer.Exit(0 if sound else 1)


@app.command()
def repair(root: Root, generation: Number = None, as_json: Json = False) -> None:
    """Remove what is damaged, image by image; intact labels stay, and refine redoes just the others."""
    from cache.verify import repair as repair_generation
    from cache.verify import restore_current

    restored = restore_current(root)
    repairs, faults = _each(_chosen(root, generation), repair_generation)
    if as_json:
        reports = [{"generation": known.number, **asdict(done)} for known, done in repairs.items()]
        _print_json({"current_restored": restored is not None, "faults": faults, "generations": reports})
    else:
        _print_repairs(repairs, restored, faults)
    raise typer.Exit(1 if faults else 0)


@app.command()
def diff(
    root: Root,
    old: Annotated[int, typer.Argument(metavar="A", help="Number of the earlier generation.")],
    new: Annotated[int, typer.Argument(metavar="B", help="Number of the later one.")],
    as_json: Json = False,
) -> None:
    """What changed from generation A to B: instances gained, lost, relabelled, and how far masks moved."""
    from cache.compare import compare
    from cache.generation import Generation
    from cache.reader import CacheReader

    with CacheReader(Generation(root, old)) as before, CacheReader(Generation(root, new)) as after:
        change = compare(before, after)
    if as_json:
        _print_json(asdict(change))
        return
    rows = [
        ["images in both", f"{change.num_images}"],
        [f"images in {old} only, in {new} only", f"{change.only_old}, {change.only_new}"],
        ["images with a change", f"{change.num_changed}"],
        ["instances kept", f"{change.kept}"],
        ["instances relabelled", f"{change.relabelled}"],
        ["instances gained", f"{change.gained}"],
        ["instances lost", f"{change.lost}"],
        ["mean IoU of matches", f"{change.mean_iou:.3f}"],
    ]
    _print_table(f"generation {old} -> {new}", ["", "count"], rows)


@app.command()
def gc(
    root: Root,
    keep: Annotated[int, typer.Option(min=1, help="Generations to keep, the current one included.")] = 1,
    as_json: Json = False,
) -> None:
    """Remove old generations that nobody reads, their embeddings, and what killed processes left behind."""
    from cache.generations import collect_garbage

    _chosen(root, None)  # a folder that is no cache is left alone
    removed = [str(path) for path in collect_garbage(root, keep)]
    if as_json:
        _print_json({"removed": removed})
        return
    for path in removed:
        console.result.print(f"removed {path}")
    console.result.print(f"{len(removed)} folders removed.")


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
            help="Its number.",
            show_default="the one of this file, else a new one",
        ),
    ] = None,
) -> None:
    """Make a generation of COCO annotations, whoever made them, and publish it."""
    from cache.coco import import_coco

    made = import_coco(annotations, root, generation, console.progress.print)
    console.result.print(f"{made.path}: {made.image_ids.size} images, published")


@app.command()
def publish(root: Root, generation: Number = None) -> None:
    """Make a complete generation (by default the newest) the one that trainings take."""
    from cache.generations import publish as publish_generation

    chosen = _chosen(root, generation)[-1]
    publish_generation(chosen)
    console.result.print(f"{chosen.name} is current")


def _chosen(root: Path, number: int | None) -> "list[Generation]":
    """The generation with that number, or all there are."""
    from cache.errors import CacheError
    from cache.generation import Generation
    from cache.generations import generations

    if number:
        return [Generation(root, number)]
    if known := generations(root):
        return known
    raise CacheError(f"{root}: no cache is there, or no generation in it. `s4m refine` makes one.")


def _standing(number: int, current: int, published_at: str | None) -> str:
    if published_at is None:
        return "incomplete since a repair" if number == current else "in progress"
    return f"{'current' if number == current else 'published'} {published_at[:16]}"


def _each(
    chosen: "list[Generation]", work: "Callable[[Generation], Done]"
) -> "tuple[dict[Generation, Done], list[str]]":
    """What work gives for each generation, and the faults of those whose description is damaged."""
    from cache.errors import DamagedError

    done, faults = {}, []
    for generation in chosen:
        try:
            done[generation] = work(generation)
        except DamagedError as damage:
            faults.append(str(damage))
    return done, faults


def _teacher_option(generation: "Generation") -> str:
    """What `s4m refine` needs besides to label with the teacher of a generation; its file may be gone."""
    from cache.fingerprint import file_hash
    from s4m_pipeline.refine.follow import TEACHERS

    wanted = generation.spec.fingerprint.get("teacher")
    experiment = generation.root.parent
    own = experiment / TEACHER / WEIGHTS
    if own.is_file() and file_hash(own) == wanted:
        return ""
    others = [*(experiment / STUDENT).glob("iter_*.pth"), *(generation.root / TEACHERS).glob("*.safetensors")]
    found = [path for path in others if file_hash(path) == wanted]
    return f" --teacher {found[0]}" if found else f" --teacher FILE (the one of {wanted})"


def _print_summary(generation: "Generation", summary: "Summary") -> None:
    from cache.summary import histogram_rows

    total = max(summary.num_instances, 1)
    classes = [[name, f"{n}", f"{n / total:.1%}"] for name, n in summary.per_class.items()]
    _print_table(f"{generation.name}: {summary.num_instances} instances", ["class", "instances", ""], classes)
    _print_table("scores", ["score", "instances", ""], histogram_rows(summary.score_histogram))
    figures = {
        "images without an instance": summary.num_without,
        "mean score": summary.mean_score,
        "mean IoU predicted by SAM": summary.mean_pred_iou,
        "mean IoU with the teacher's mask": summary.mean_raw_iou,
        **(summary.quality or {}),
        **(summary.statistics or {}),
    }
    held_out = figures.pop("held_out", {})
    figures |= {f"validation images: {name}": value for name, value in held_out.items()}
    figures.pop("instances by class", None)  # the first table
    rows = [
        [name, f"{v:.3f}" if isinstance(v, float) else f"{v}"] for name, v in figures.items() if v is not None
    ]
    _print_table("figures", ["", "value"], rows)
    _print_table("made by", ["", "value"], [[name, f"{v}"] for name, v in summary.fingerprint.items()])


def _report(generation: "Generation", found: "Verification") -> dict[str, Any]:
    return {
        "generation": generation.number,
        "sound": found.sound,
        "intact": len(found.intact_ids),
        "damaged_ids": found.damaged_ids,
        "absent_ids": found.absent_ids,
        "damages": [
            {"path": str(damage.path), "problem": damage.problem, "image_ids": damage.image_ids}
            for damage in found.damages
        ],
    }


def _print_verification(generation: "Generation", found: "Verification") -> None:
    if found.sound:
        pending = f", {found.absent_ids.size} not labelled yet" if found.absent_ids.size else ""
        console.result.print(f"{generation.name}: sound, {found.intact_ids.size} images{pending}")
        return
    rows = [[str(damage.path.relative_to(generation.path)), damage.problem] for damage in found.damages]
    _print_table(f"{generation.name}: {len(rows)} damages", ["file", "problem"], rows)
    ids = " ".join(map(str, found.lost_ids.tolist()))
    console.result.print(f"{found.lost_ids.size} images lost: {ids}")
    console.result.print(f"Next: s4m cache repair {generation.root}")


def _print_repairs(
    repairs: "dict[Generation, Repair]", restored: "Generation | None", faults: list[str]
) -> None:
    if restored:
        console.result.print(f"CURRENT.json was damaged; it names {restored.name} again.")
    for line in faults:
        console.result.print(line)
    for known, done in repairs.items():
        console.result.print(
            f"{known.name}: {done.num_parts} damaged parts removed, {done.num_rescued} images kept, "
            f"{done.removed_ids.size} to be redone."
        )
        if done.removed_ids.size:
            console.result.print("Redo them; the last command publishes the generation again:")
            teacher = _teacher_option(known)
            for shard in known.missing():
                console.result.print(
                    f"  s4m refine CONFIG --generation {known.number} --shard {shard}{teacher}",
                    soft_wrap=True,
                )


def _print_table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for column, *cells in zip(columns, *rows, strict=True):
        numbers = all(cell[:1].isdigit() for cell in cells)
        table.add_column(column, justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.result.print(table)


def _print_json(body: dict[str, Any]) -> None:
    """Dataclasses as objects, arrays as lists, NaN as null."""
    print(json.dumps(_plain(body), allow_nan=False))


def _plain(value: Any) -> Any:
    if hasattr(value, "__dataclass_fields__"):
        return _plain(asdict(value))
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and math.isnan(value) else value
