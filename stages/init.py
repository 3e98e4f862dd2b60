"""`s4m init`: a runnable experiment from a person's own images and labels."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from s4m_pipeline import console

if TYPE_CHECKING:
    from s4m_pipeline.custom.fitting import Device, Fit
    from s4m_pipeline.custom.sources import Prepared, Sources


def init(
    name: Annotated[str, typer.Argument(help="Name of the experiment: letters, digits, _ and -.")],
    images: Annotated[Path, typer.Option(help="Folder that the file names of --labels are relative to.")],
    labels: Annotated[Path, typer.Option(metavar="JSON", help="COCO JSON of the labelled images.")],
    unlabeled: Annotated[
        Path,
        typer.Option(
            metavar="DIR|JSON", help="Folder of unlabelled images, or a COCO JSON relative to --images."
        ),
    ],
    val: Annotated[
        Path | None,
        typer.Option(metavar="JSON", help="Validation set.", show_default="a part of the labelled images"),
    ] = None,
    val_images: Annotated[
        Path | None, typer.Option(help="Its image folder.", show_default="val/ beside val.json, else ./")
    ] = None,
    val_percent: Annotated[
        float, typer.Option(help="Without --val: share of the labelled images to validate on.")
    ] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Which images --val-percent picks.")] = 0,
    test: Annotated[Path | None, typer.Option(metavar="JSON", help="Test set, looked at last.")] = None,
    test_images: Annotated[
        Path | None, typer.Option(help="Its image folder.", show_default="test/ beside test.json, else ./")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for NAME.py and for NAME/ with new JSON files.")] = Path(
        "experiments"
    ),
    gpu_gb: Annotated[
        float | None,
        typer.Option(min=4, help="Memory of the GPU to size for.", show_default="that of this machine's"),
    ] = None,
) -> None:
    """Check the data, hold out validation images, and write a config with sizes that fit data and device."""
    from s4m_pipeline.custom.sources import Sources

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
    _write_experiment(path, sources, gpu_gb)


def _write_experiment(path: Path, sources: "Sources", gpu_gb: float | None) -> None:
    from s4m_pipeline.custom.config_file import config_text
    from s4m_pipeline.custom.fitting import fit
    from s4m_pipeline.custom.sources import prepare, write_files

    prepared = prepare(sources, path.with_suffix(""), _say)
    device = _device(gpu_gb)
    sizes = fit(
        prepared.sizes_px,
        len(prepared.labeled.images),
        len(prepared.unlabeled_images),
        prepared.most_objects,
        prepared.small_object_px,
        device,
    )
    write_files({**prepared.new_files, path: config_text(path, prepared, sizes, device)})
    _print_summary(path, prepared, sizes, device)


def _refuse(name: str, path: Path) -> None:
    from s4m_pipeline.errors import UserError

    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        raise UserError(f"{name!r} is no name for a file. Expected letters, digits, _ and -.")
    for taken in (path, path.with_suffix("")):
        if taken.exists():
            raise UserError(f"{taken} exists and is not overwritten. Choose another name or --out.")


def _device(gpu_gb: float | None) -> "Device":
    from s4m_pipeline.custom.fitting import GB, Device

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
            f"{prepared.left_out} images of the unlabelled folder are labelled, validation or test images: "
            "left out"
        )
    if device.memory_bytes is None:
        _say(
            "No GPU here: the config names the demo's small network and the nano SAM 2, to try everything in "
            "minutes. For real work, `--gpu-gb 24`, say, writes it for a machine with such a GPU: "
            "Mask2Former with ResNet-50, and the large SAM 2.",
            style="yellow",
        )
    _say(
        f"{_counts(prepared)} images; for {device}: images of {sizes.long_px} x {sizes.short_px}, crops of "
        f"{sizes.crop_px} px, {sizes.batch_size} in a step, {sizes.iterations} steps"
    )
    _say(f"Next: s4m doctor {path}")
    _say(f"      s4m run {path}")
    console.result.print(str(path))


def _counts(prepared: "Prepared") -> str:
    counts = {
        "labelled": len(prepared.labeled.images),
        "validation": len(prepared.val.images),
        "unlabelled": len(prepared.unlabeled_images),
        **({"test": len(prepared.test.images)} if prepared.test else {}),
    }
    return ", ".join(f"{count} {kind}" for kind, count in counts.items())


def _say(line: str, style: str | None = None) -> None:
    console.progress.print(line, style=style, soft_wrap=True)
