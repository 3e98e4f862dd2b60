"""Predictions of a checkpoint on any images: pictures to look at, and COCO results."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from s4m_pipeline import console
from s4m_pipeline.errors import UserError
from s4m_pipeline.layout import experiment_folder
from stages.arguments import Checkpoint, Overrides, TrainedConfig, TrustCheckpoint

if TYPE_CHECKING:
    from s4m_pipeline.data.coco import CocoImage
    from s4m_pipeline.predict.predictor import Predictor
    from s4m_pipeline.refine.photos import Unreadable

PICTURES = "pictures"
UNREADABLE = "unreadable.txt"


def predict(
    config: TrainedConfig,
    checkpoint: Checkpoint,
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH...", help="Images, or folders of images at any depth.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to write.", show_default="work_dirs/<config name>/predictions"),
    ] = None,
    min_score: Annotated[
        float, typer.Option(min=0, max=1, help="Leave out objects of a lower score; 0 keeps all, for AP.")
    ] = 0.5,
    max_images: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Take only the first N images by name.")
    ] = None,
    pictures: Annotated[bool, typer.Option(help="Draw the predictions on the images.")] = True,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per pass of the network.")] = 1,
    workers: Annotated[
        int, typer.Option(min=0, help="Processes that decode images; 0 decodes in the main process.")
    ] = 2,
    overrides: Overrides = None,
    trust_checkpoint: TrustCheckpoint = False,
) -> None:
    """Find the objects of images: overlay pictures, and masks, classes and scores as COCO results."""
    from s4m_pipeline.predict.images import list_images

    images = list_images(paths, max_images)
    folder = out or experiment_folder(config) / "predictions"
    _refuse_existing(folder)

    from s4m_pipeline.predict.predictor import Predictor
    from s4m_pipeline.predict.results import write_images

    predictor = Predictor(
        config,
        checkpoint,
        overrides=overrides or [],
        min_score=min_score,
        trust_checkpoint=trust_checkpoint,
    )
    unreadable: list[Unreadable] = []
    count = _predict_all(predictor, images, unreadable, folder, pictures, batch_size, workers)
    skipped = {image.image_id for image in unreadable}
    read = [image for image in images if image.id not in skipped]
    write_images(folder, read, predictor.classes)
    console.result.print(f"{folder}: {count} objects in {len(read)} images")


def _refuse_existing(folder: Path) -> None:
    """Refuse a folder where anything might be overwritten."""
    from s4m_pipeline.predict.results import PREDICTIONS

    if found := [name for name in (PREDICTIONS, PICTURES) if (folder / name).exists()]:
        raise UserError(
            f"{folder} holds {' and '.join(found)} already.\nRemove them, or name another folder with --out."
        )


def _predict_all(
    predictor: "Predictor",
    images: "Sequence[CocoImage]",
    unreadable: "list[Unreadable]",
    folder: Path,
    pictures: bool,
    batch_size: int,
    workers: int,
) -> int:
    """Write predictions and pictures; returns the number of objects. Skipped images go to `unreadable`."""
    from rich.progress import track

    from s4m_pipeline.predict.overlay import draw_overlay
    from s4m_pipeline.predict.results import results_file

    names = _picture_names(images)
    stream = predictor.stream(
        images, unreadable.append, batch_size=batch_size, workers=min(workers, len(images) - 1)
    )
    progress = track(stream, "Predicting", len(images), console=console.progress, transient=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with results_file(folder) as results:
            for photo, found in progress:
                results.add(photo.image_id, found)
                if pictures:
                    path = folder / PICTURES / names[photo.image_id]
                    path.parent.mkdir(parents=True, exist_ok=True)
                    pixels = photo.pixels.permute(1, 2, 0).numpy()
                    draw_overlay(pixels, found, predictor.classes).save(path, quality=92, subsampling=0)
            _report_unreadable(unreadable, len(images), folder)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written: {error.strerror}.\nMake room, or name another folder with --out."
        ) from error
    return results.count


def _picture_names(images: "Sequence[CocoImage]") -> dict[int, str]:
    """File name of each image's picture: its own ending in .jpg, or with .jpg added if two would be alike."""
    names = [str(Path(image.file_name).with_suffix(".jpg")) for image in images]
    if len(set(names)) < len(names):
        names = [f"{image.file_name}.jpg" for image in images]
    return {image.id: name for image, name in zip(images, names, strict=True)}


def _report_unreadable(unreadable: "Sequence[Unreadable]", total: int, folder: Path) -> None:
    """List skipped images in a file, the first ones on the console; refuse if there is nothing else."""
    from s4m_pipeline.data.images import FORMATS
    from s4m_pipeline.refine.photos import list_unreadable

    if not unreadable:
        return
    skipped = [(image.file_name, image.reason) for image in sorted(unreadable)]
    if len(skipped) == total:
        raise UserError(
            f"None of the {total} images can be read:\n{list_unreadable(skipped)}\n"
            f"Expected whole files of the formats {', '.join(FORMATS)}. Open one in another program: if it "
            "is shown there, save it as PNG or JPEG, 8 bit; if not, copy it anew from where it came from."
        )
    path = folder / UNREADABLE
    path.write_text("".join(f"{name}: {reason}\n" for name, reason in skipped), encoding="utf-8")
    console.progress.print(
        f"{len(skipped)} of {total} images cannot be read and were skipped; {path} lists them:\n"
        + list_unreadable(skipped),
        soft_wrap=True,
    )
