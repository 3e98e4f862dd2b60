"""`s4m init`: an experiment for a user's own images and labels."""

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from s4m_pipeline.config.weight_files import fetch_command, is_published, weights_here
from s4m_pipeline.core import console
from s4m_pipeline.core.paths import EXPERIMENTS

MINUTES = 30.0
"""Default of --minutes."""

if TYPE_CHECKING:
    from s4m_pipeline.apps.init.fitting import Device, Fit
    from s4m_pipeline.apps.init.sources import Prepared, Sources


def init(
    name: Annotated[str, typer.Argument(help="Name of the experiment: letters, digits, _ and -.")],
    images: Annotated[Path, typer.Option(help="Folder that the file names of --labels are relative to.")],
    labels: Annotated[
        Path,
        typer.Option(
            help="Labels: COCO JSON, YOLO's data.yaml, or a folder of LabelMe's files, label images or "
            "Cityscapes."
        ),
    ],
    unlabeled: Annotated[
        Path,
        typer.Option(
            metavar="DIR|JSON", help="Folder of unlabeled images, or a COCO JSON relative to --images."
        ),
    ],
    val: Annotated[
        Path | None,
        typer.Option(metavar="JSON", help="Validation set.", show_default="a part of the labeled images"),
    ] = None,
    val_images: Annotated[
        Path | None, typer.Option(help="Its image folder.", show_default="val/ beside val.json, else ./")
    ] = None,
    val_percent: Annotated[
        float, typer.Option(help="Without --val: percentage of the labeled images used for validation.")
    ] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Decides which images --val-percent selects.")] = 0,
    test: Annotated[Path | None, typer.Option(metavar="JSON", help="Test set for the final score.")] = None,
    test_images: Annotated[
        Path | None, typer.Option(help="Its image folder.", show_default="test/ beside test.json, else ./")
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder for NAME.py and for NAME/ with new JSON files.")
    ] = EXPERIMENTS,
    gpu_gb: Annotated[
        float | None,
        typer.Option(min=4, help="Memory of the GPU to size for.", show_default="that of this machine's"),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(min=1, help="Without a GPU: time for both trainings and labels.", show_default="30"),
    ] = None,
    from_scratch: Annotated[
        bool,
        typer.Option("--from-scratch", help="For a GPU: start from ImageNet, not from a network for COCO."),
    ] = False,
    sam: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="SAM 2 that refines the masks: a hub name, nano, or a file.",
            show_default="by memory, or without a GPU by time",
        ),
    ] = None,
) -> None:
    """Check the data, hold out validation images, and write a config with sizes that fit data and device."""
    from s4m_pipeline.apps.init.sources import Sources

    path = out / f"{name}.py"
    _refuse(name, path)
    sources = Sources(
        images=images,
        labels=labels,
        unlabeled=unlabeled,
        val=val,
        val_images=val_images,
        val_percent=val_percent,
        seed=seed,
        test=test,
        test_images=test_images,
    )
    device = _device(gpu_gb)
    _refuse_minutes(minutes, device)
    sam = _checked_sam(sam)
    folder = path.with_suffix("")  # does not exist, see _refuse
    try:
        sources = replace(sources, labels=_as_coco(sources, folder / "labels.json"))
        _write_experiment(path, sources, device, minutes or MINUTES, sam, from_scratch)
    except BaseException:
        if not path.exists():
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _as_coco(sources: "Sources", json_path: Path) -> Path:
    """The labels as COCO JSON: as given, or converted to a new file."""
    from s4m_pipeline.core.errors import UserError
    from s4m_pipeline.data.formats.convert import convert, kind_of

    kind = kind_of(sources.labels)
    if kind == "coco":
        return sources.labels
    converted = convert(kind, sources.labels, json_path, sources.images)
    if converted.images.resolve() != sources.images.resolve():
        raise UserError(
            f"--images {sources.images}: the images of {sources.labels} are in {converted.images}.\n"
            "Give this folder."
        )
    _say(converted.summary)
    return converted.json_path


def _write_experiment(
    path: Path,
    sources: "Sources",
    device: "Device",
    minutes: float,
    sam: str | None,
    from_scratch: bool,
) -> None:
    from s4m_pipeline.apps.init.config_file import config_text
    from s4m_pipeline.apps.init.gpu import fit_gpu
    from s4m_pipeline.apps.init.sources import prepare, write_files
    from s4m_pipeline.data.coco import load_coco

    prepared = prepare(sources, path.with_suffix(""), _say)
    if device.memory_bytes is None:
        from s4m_pipeline.apps.init.timing import fit_here

        _say("timing a few iterations on this machine")
        labeled = load_coco(sources.labels, sources.images)
        sizes = fit_here(
            prepared.facts, minutes, sam, labeled, lambda fit: config_text(path, prepared, fit, device)
        )
    else:
        sizes = fit_gpu(prepared.facts, device, device.memory_bytes, from_scratch=from_scratch)
        sizes = replace(sizes, sam=sam or sizes.sam)
    write_files({**prepared.new_files, path: config_text(path, prepared, sizes, device)})
    _print_summary(path, prepared, sizes, device)


def _refuse(name: str, path: Path) -> None:
    from s4m_pipeline.core.errors import UserError

    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        raise UserError(f"{name!r} cannot be a file name. Expected letters, digits, _ and -.")
    for taken in (path, path.with_suffix("")):
        if taken.exists():
            raise UserError(f"{taken} exists and is not overwritten. Choose a different name or --out.")


def _refuse_minutes(minutes: float | None, device: "Device") -> None:
    from s4m_pipeline.core.errors import UserError

    if minutes is not None and device.memory_bytes is not None:
        raise UserError(
            f"--minutes {minutes:g} is for machines without a GPU. For {device} the number of labeled images "
            "decides how long the trainings are: leave --minutes out, and change `iterations` in the config."
        )


def _checked_sam(name: str | None) -> str | None:
    """`--sam` as a config names it; a file by its absolute path.

    Raises:
        UserError: for an unknown name, or a file that is missing or lacks its YAML.
    """
    from s4m_pipeline.config.groups import SamOptions
    from s4m_pipeline.config.sam_files import NANO, OFFICIAL, find_sam, local_weights

    if name is None or name == NANO:
        return name
    if name not in OFFICIAL:
        return str(find_sam(name, None, SamOptions().weights_dir)[1].resolve())
    if local_weights(name, SamOptions().weights_dir) is None:
        _say(f"The weights of {name} are not on this machine and will be downloaded at first use.")
    return name


def _device(gpu_gb: float | None) -> "Device":
    from s4m_pipeline.apps.init.fitting import GB, Device

    if gpu_gb is not None:
        return Device(memory_bytes=int(gpu_gb * GB))
    import torch

    if not torch.cuda.is_available():
        return Device(memory_bytes=None)
    gpus = range(torch.cuda.device_count())
    smallest = min(torch.cuda.get_device_properties(gpu).total_memory for gpu in gpus)
    return Device(memory_bytes=smallest, bfloat16=torch.cuda.is_bf16_supported(including_emulation=False))


def _print_summary(path: Path, prepared: "Prepared", sizes: "Fit", device: "Device") -> None:
    if prepared.left_out:
        _say(
            f"{prepared.left_out} images of the unlabeled folder are labeled, validation or test images "
            "and were left out"
        )
    if device.memory_bytes is None:
        _say(
            "No GPU found: the config uses the demo's small network, to try everything in minutes. For full "
            "quality, use for example `--gpu-gb 24`, which writes a config for a machine with such a GPU: "
            "Mask2Former with Swin-T that knows COCO, and the large SAM 2.",
            style="yellow",
        )
    _say(
        f"{_counts(prepared)} images; for {device}: images of {sizes.long_px} x {sizes.short_px}, crops of "
        f"{sizes.crop_px} px, batch size {sizes.batch_size}, {sizes.iterations} iterations"
    )
    for note in sizes.notes:
        _say(f"- {note}")
    if sizes.start is not None and is_published(sizes.start) and weights_here(sizes.start) is None:
        _say(f"{sizes.start} is fetched at first use. Without a network there: {fetch_command(sizes.start)}")
    _say(f"Next: s4m doctor {path}")
    _say(f"      s4m run {path}")
    console.result.print(str(path))


def _counts(prepared: "Prepared") -> str:
    counts = {
        "labeled": len(prepared.labeled.images),
        "validation": len(prepared.val.images),
        "unlabeled": len(prepared.unlabeled_images),
        **({"test": len(prepared.test.images)} if prepared.test else {}),
    }
    return ", ".join(f"{count} {kind}" for kind, count in counts.items())


def _say(line: str, style: str | None = None) -> None:
    console.progress.print(line, style=style, soft_wrap=True)
