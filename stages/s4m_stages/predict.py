"""Predictions of a checkpoint on any images: pictures and COCO results."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from s4m_pipeline.config.weight_files import is_weights
from s4m_pipeline.core import console
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.core.paths import PREDICTIONS, experiment_folder, experiment_of
from s4m_stages.arguments import (
    CHOSEN_CHECKPOINT,
    Overrides,
    TrainedConfig,
    TrustCheckpoint,
    best_of,
)

if TYPE_CHECKING:
    from s4m_pipeline.apps.predict.predictor import Predictor
    from s4m_pipeline.data.coco_entries import CocoImage
    from s4m_pipeline.refine.images import Unreadable

PICTURES = "pictures"
UNREADABLE = "unreadable.txt"


def predict(
    config_path: TrainedConfig,
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="[CHECKPOINT] PATH...",
            help=f"{CHOSEN_CHECKPOINT} Then images, or folders of images at any depth.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to write.", show_default="predictions in the experiment's folder"),
    ] = None,
    work_dir: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the experiment.", show_default="that of CHECKPOINT, or work_dirs/<config name>"
        ),
    ] = None,
    min_score: Annotated[
        float,
        typer.Option(min=0, max=1, help="Leave out objects of a lower score, and duplicates; 0 keeps all."),
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
    from s4m_pipeline.apps.predict.images import list_images

    named = is_weights(paths[0])
    if named and len(paths) == 1:
        raise typer.BadParameter("expected images or folders of images, too")
    checkpoint = paths[0] if named else best_of(config_path, work_dir)
    images = list_images(paths[named:], max_images)
    experiment = work_dir or experiment_of(checkpoint) or experiment_folder(config_path)
    folder = out or experiment / "predictions"
    _refuse_existing(folder)

    from s4m_pipeline.apps.predict.predictor import Predictor
    from s4m_pipeline.apps.predict.results import write_images

    predictor = Predictor(
        config_path,
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
    if found := [name for name in (PREDICTIONS, PICTURES) if (folder / name).exists()]:
        raise UserError(
            f"{folder} holds {' and '.join(found)} already.\nRemove them, or choose a different --out."
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
    from s4m_pipeline.apps.predict.results import draw_overlay, results_file
    from s4m_pipeline.core.progress import track

    names = _picture_names(images)
    stream = predictor.stream(
        images, unreadable.append, batch_size=batch_size, workers=min(workers, len(images) - 1)
    )
    progress = track(stream, len(images), "Predicting")
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
            f"{folder} cannot be written: {error.strerror}.\nFree disk space, or choose a different --out."
        ) from error
    return results.count


def _picture_names(images: "Sequence[CocoImage]") -> dict[int, str]:
    """File name of each image's picture: its extension replaced by .jpg; appended if two would be equal."""
    names = [str(Path(image.file_name).with_suffix(".jpg")) for image in images]
    if len(set(names)) < len(names):
        names = [f"{image.file_name}.jpg" for image in images]
    return {image.id: name for image, name in zip(images, names, strict=True)}


def _report_unreadable(unreadable: "Sequence[Unreadable]", total: int, folder: Path) -> None:
    """List skipped images in a file, the first ones on the console; raise if no image was read."""
    from s4m_pipeline.data.images import FORMATS
    from s4m_pipeline.refine.images import list_unreadable

    if not unreadable:
        return
    skipped = [(image.file_name, image.reason) for image in sorted(unreadable)]
    if len(skipped) == total:
        raise UserError(
            f"None of the {total} images can be read:\n{list_unreadable(skipped)}\n"
            f"Expected complete files of the formats {', '.join(FORMATS)}. Open one in an image viewer: if "
            "it can be shown, save it as 8-bit PNG or JPEG; if not, copy it again from its source."
        )
    path = folder / UNREADABLE
    path.write_text("".join(f"{name}: {reason}\n" for name, reason in skipped), encoding="utf-8")
    console.progress.print(
        f"{len(skipped)} of {total} images cannot be read and were skipped; {path} lists them:\n"
        + list_unreadable(skipped),
        soft_wrap=True,
    )
