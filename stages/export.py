"""`s4m export`: weights and pseudo-labels for other programs."""

import pprint
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from s4m_pipeline import console
from s4m_pipeline.errors import UserError
from s4m_pipeline.layout import TEACHER
from s4m_pipeline.options.experiment import load_experiment
from stages.arguments import Checkpoint, Overrides, TrainedConfig, TrustCheckpoint
from stages.artifacts import read_run

if TYPE_CHECKING:
    from cache.reader import CacheReader
    from s4m_pipeline.export.weights import ChosenWeights

app = typer.Typer(help="Hand weights and pseudo-labels to other programs.", no_args_is_help=True)

MMDET_CONFIG = "mmdet_config.py"
MMDET_CHECKPOINT = "mmdet_checkpoint.pth"

Kind = Annotated[
    Literal["ema", "student"] | None,
    typer.Option(
        "--weights",
        help="Of a .pth: the average over training steps, or the weights after the last one.",
        show_default="the average if there is one",
    ),
]


@app.command()
def weights(
    config: TrainedConfig,
    checkpoint: Checkpoint,
    out: Annotated[Path, typer.Argument(help="File to write, ending in .safetensors.")],
    kind: Kind = None,
    overrides: Overrides = None,
    trust_checkpoint: TrustCheckpoint = False,
) -> None:
    """Write a network's weights as safetensors, with classes, config and origin in the header."""
    if out.suffix != ".safetensors":
        raise UserError(f"{out}: expected a file name that ends in .safetensors.")
    _refuse_existing(out)
    chosen, tensors, _ = _load(config, checkpoint, kind, overrides, trust_checkpoint)

    from cache.fingerprint import file_hash
    from s4m_pipeline.engine.checkpoint import write_weights
    from s4m_pipeline.models.load import named_classes

    about = {"config": config.stem, "source": checkpoint.name, "source_hash": file_hash(checkpoint)}
    if chosen.kind is not None:
        about["weights"] = chosen.kind
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_weights(out, tensors, named_classes(chosen.weights), **about)
    except OSError as error:
        raise _not_writable(out, error) from error
    console.result.print(f"{out}: {len(tensors)} tensors")


@app.command()
def mmdet(
    config: TrainedConfig,
    checkpoint: Checkpoint,
    out_dir: Annotated[Path, typer.Argument(help="Folder to write: a config and a checkpoint.")],
    kind: Kind = None,
    overrides: Overrides = None,
    trust_checkpoint: TrustCheckpoint = False,
) -> None:
    """Write a config and a checkpoint that mmdet loads without this project."""
    for name in (MMDET_CONFIG, MMDET_CHECKPOINT):
        _refuse_existing(out_dir / name)
    chosen, tensors, parts = _load(config, checkpoint, kind, overrides, trust_checkpoint)

    import io

    import torch

    from cache.atomic import write_bytes, write_text
    from s4m_pipeline.export.mmdet_config import mmdet_config
    from s4m_pipeline.models.load import named_classes

    classes = named_classes(chosen.weights)
    settings = mmdet_config(parts, classes)
    buffer = io.BytesIO()
    torch.save({"meta": {"dataset_meta": {"classes": classes}}, "state_dict": tensors}, buffer)
    lines = [
        f"{key} = {pprint.pformat(value, width=100, sort_dicts=False)}\n" for key, value in settings.items()
    ]
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        write_bytes(out_dir / MMDET_CHECKPOINT, buffer.getvalue())
        write_text(out_dir / MMDET_CONFIG, "\n".join(lines))
    except OSError as error:
        raise _not_writable(out_dir, error) from error
    for name in (MMDET_CONFIG, MMDET_CHECKPOINT):
        console.result.print(f"{out_dir / name}")


@app.command()
def labels(
    folder: Annotated[
        Path, typer.Argument(metavar="WORK_DIR|CACHE", help="Folder of an experiment, or its cache.")
    ],
    out: Annotated[Path, typer.Argument(help="coco: JSON file to write. yolo: folder.")],
    to: Annotated[Literal["coco", "yolo"], typer.Option("--format", help="Format.")] = "coco",
    generation: Annotated[
        int | None,
        typer.Option(
            "--generation", "-g", min=1, help="Number of a generation.", show_default="the published one"
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            help="COCO JSON or folder of the unlabelled images, for their file names.",
            show_default="as the experiment's config says",
        ),
    ] = None,
) -> None:
    """Write pseudo-labels as COCO annotations, or as YOLO segmentation text."""
    from cache.coco import export_coco
    from cache.errors import disk_error
    from s4m_pipeline.export.labels import read_pseudo_labels

    _refuse_existing(out)
    with read_pseudo_labels(folder, generation) as reader:
        names = _file_names(reader, folder, images)
        if to == "coco":
            if out.suffix != ".json":
                raise UserError(f"{out}: expected a file name that ends in .json (--format yolo: a folder).")
            count = export_coco(reader, out, names)
            _warn_of_category_zero(reader)
        else:
            from s4m_pipeline.export.yolo import export_yolo

            try:
                count = export_yolo(reader, out, names)
            except OSError as error:
                raise disk_error(out, 2 * reader.size_bytes, error) from error
        console.result.print(f"{out}: {count} objects in {len(reader)} images")


def _load(
    config: Path, checkpoint: Path, kind: Any, overrides: list[str] | None, trust: bool
) -> tuple["ChosenWeights", dict[str, Any], dict[str, Any]]:
    """The chosen weights, what the config's network takes of them, and the config."""
    _, parts = load_experiment(config, overrides or [])

    from s4m_pipeline.export.weights import choose_weights
    from s4m_pipeline.models.load import load_network, named_classes

    chosen = choose_weights(checkpoint, kind, trust=trust)
    network = load_network(parts, chosen.weights, len(named_classes(chosen.weights)), device="cpu")
    return chosen, network.state_dict(), parts


def _file_names(reader: "CacheReader", folder: Path, images: Path | None) -> dict[int, str] | None:
    """File names by image id: those asked for, those of the experiment's data, or None."""
    from cache.errors import abridged
    from s4m_pipeline.export.labels import named_files, recorded_files

    if images is not None:
        names = named_files(images)
        if unknown := [id_ for id_ in reader.image_ids.tolist() if id_ not in names]:
            raise UserError(
                f"{images} has no file names for images {abridged(unknown)}.\n"
                "Expected the list of images that the labels were made of."
            )
        return names
    experiment = folder if reader.generation.root != folder else folder.parent
    run = read_run(experiment / TEACHER)
    recorded = recorded_files(reader, run["config"]) if run else None
    if recorded is None:
        console.progress.print(
            "The images' file names are not known here: images are called by their ids. "
            "--images takes the names from a COCO JSON or a folder.",
            soft_wrap=True,
        )
    return recorded


def _warn_of_category_zero(reader: "CacheReader") -> None:
    spec = reader.generation.spec
    if 0 in spec.category_ids:
        console.progress.print(
            f"The category {spec.classes[spec.category_ids.index(0)]} has the id 0, which CVAT takes for no "
            "class. Number the data set's categories from 1 if the file is for CVAT.",
            soft_wrap=True,
        )


def _refuse_existing(path: Path) -> None:
    if path.exists() and (path.is_file() or any(path.iterdir())):
        raise UserError(f"{path} is there already.\nRemove it, or name another place.")


def _not_writable(path: Path, error: OSError) -> UserError:
    return UserError(f"{path} cannot be written: {error.strerror}.\nMake room, or name another place.")
