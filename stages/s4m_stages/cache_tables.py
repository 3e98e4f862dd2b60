"""What `s4m cache` prints."""

import json
import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from s4m_pipeline.core import console
from s4m_pipeline.core.paths import STUDENT, TEACHER, WEIGHTS

if TYPE_CHECKING:
    from s4m_cache.generation import Generation
    from s4m_cache.summary import Summary
    from s4m_cache.verify import Repair, Verification


def _teacher_option(generation: "Generation") -> str:
    """The option with which `s4m refine` uses the teacher of a generation; its file may be gone."""
    from s4m_cache.fingerprint import file_hash
    from s4m_pipeline.refine.follow import TEACHERS

    wanted = generation.spec.fingerprint.get("teacher")
    experiment = generation.root.parent
    own = experiment / TEACHER / WEIGHTS
    if own.is_file() and file_hash(own) == wanted:
        return ""
    others = [*(experiment / STUDENT).glob("iter_*.pth"), *(generation.root / TEACHERS).glob("*.safetensors")]
    found = [path for path in others if file_hash(path) == wanted]
    return f" --teacher {found[0]}" if found else f" --teacher FILE (the one of {wanted})"


def print_summary(generation: "Generation", summary: "Summary") -> None:
    from s4m_cache.summary import histogram_rows
    from s4m_pipeline.refine.comparison import comparison_tables

    total = max(summary.num_instances, 1)
    classes = [[name, f"{n}", f"{n / total:.1%}"] for name, n in summary.per_class.items()]
    console.print_table(
        f"{generation.name}: {summary.num_instances} instances", ["class", "instances", ""], classes
    )
    console.print_table("scores", ["score", "instances", ""], histogram_rows(summary.score_histogram))
    figures = {
        "images without an instance": summary.num_without,
        "mean score": summary.mean_score,
        "mean estimated IoU of the masks": summary.mean_pred_iou,
        "mean IoU with the teacher's mask": summary.mean_raw_iou,
        "instances with the teacher's mask instead of SAM's": summary.num_raw,
        "ignored instances": summary.num_ignored,
        **(summary.quality or {}),
        **(summary.statistics or {}),
    }
    held_out, masks = figures.pop("held_out", {}), figures.pop("masks", None)
    figures |= {f"validation images: {name}": value for name, value in held_out.items()}
    figures.pop("instances by class", None)  # the first table
    rows = [
        [name, f"{v:.3f}" if isinstance(v, float) else f"{v}"] for name, v in figures.items() if v is not None
    ]
    console.print_table("figures", ["", "value"], rows)
    if masks is not None:
        for table in comparison_tables(masks, figures["masks taken"]):
            console.result.print(table)
    console.print_table(
        "made from", ["", "value"], [[name, f"{v}"] for name, v in summary.fingerprint.items()]
    )


def report(generation: "Generation", found: "Verification") -> dict[str, Any]:
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


def print_verification(generation: "Generation", found: "Verification") -> None:
    if found.sound:
        pending = f", {found.absent_ids.size} not labeled yet" if found.absent_ids.size else ""
        console.result.print(f"{generation.name}: sound, {found.intact_ids.size} images{pending}")
        return
    rows = [[str(damage.path.relative_to(generation.path)), damage.problem] for damage in found.damages]
    console.print_table(f"{generation.name}: {len(rows)} damaged files", ["file", "problem"], rows)
    ids = " ".join(map(str, found.lost_ids.tolist()))
    console.result.print(f"{found.lost_ids.size} images lost: {ids}")
    console.result.print(f"Next: s4m cache repair {generation.root}")


def print_repairs(
    repairs: "dict[Generation, Repair]", restored: "Generation | None", faults: list[str]
) -> None:
    if restored:
        console.result.print(f"CURRENT.json was damaged; it names {restored.name} again.")
    for line in faults:
        console.result.print(line)
    for known, done in repairs.items():
        console.result.print(
            f"{known.name}: {done.num_parts} damaged parts removed, {done.num_rescued} images kept, "
            f"{done.removed_ids.size} images removed."
        )
        if done.removed_ids.size:
            console.result.print("Label them again; the last command publishes the generation again:")
            teacher = _teacher_option(known)
            for shard in known.missing():
                console.result.print(
                    f"  s4m refine CONFIG --generation {known.number} --shard {shard}{teacher}",
                    soft_wrap=True,
                )


def print_json(body: dict[str, Any]) -> None:
    """Print JSON: dataclasses as objects, arrays as lists, NaN as null."""
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
