"""Arguments and options that several commands share, each described once, and checks of output paths."""

from pathlib import Path
from typing import Annotated

import typer

from s4m_pipeline.core import console
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.core.paths import experiment_folder
from s4m_pipeline.experiment.best import best_weights

Config = Annotated[
    Path,
    typer.Argument(
        metavar="CONFIG",
        help="Config of the experiment: a file, or a name of experiments/ or of a shipped one.",
    ),
]
TrainedConfig = Annotated[
    Path, typer.Argument(metavar="CONFIG", help="Config that the checkpoint was trained with: file or name.")
]
CHECKPOINT_HELP = (
    "Weights: .safetensors, a checkpoint .pth, mmdet://NAME, or a Mask2Former of Hugging Face's hub."
)
CHOSEN_CHECKPOINT = "Weights, in place of the experiment's best.safetensors."
Checkpoint = Annotated[Path, typer.Argument(help=CHECKPOINT_HELP)]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of the config.")
]
WorkDir = Annotated[
    Path | None, typer.Option(help="Folder of the experiment.", show_default="work_dirs/<config name>")
]
TrustCheckpoint = Annotated[
    bool, typer.Option("--trust-checkpoint", help="Load a checkpoint even if its file runs code.")
]

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Delete an earlier run and start from scratch.")]
OverwriteChanged = Annotated[
    bool,
    typer.Option("--overwrite", help="Delete trainings whose settings or data changed, and train again."),
]
AllowPartial = Annotated[
    bool, typer.Option("--allow-partial", help="Start from those initial weights that fit.")
]
Devices = Annotated[
    int,
    typer.Option(min=1, help="Processes to train in, one for each GPU; under torchrun or srun these decide."),
]
MaxPixels = Annotated[
    int, typer.Option(min=1, help="Largest width x height in pixels; larger images are not decoded.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace existing files.")]


def best_of(config_path: Path, work_dir: Path | None = None) -> Path:
    """best.safetensors of a config's experiment; prints whose weights these are.

    Raises:
        UserError: if there is none, or it is outdated.
    """
    path, reason = best_weights(experiment_folder(config_path, work_dir))
    console.progress.print(f"{path}: {reason}", soft_wrap=True)
    return path


def refuse_existing(path: Path) -> None:
    """Refuse a file that exists, or a folder with content.

    Raises:
        UserError: if it does.
    """
    if path.exists() and (path.is_file() or any(path.iterdir())):
        raise UserError(f"{path} exists already.\nRemove it, or choose a different path.")


def not_writable(path: Path, error: OSError) -> UserError:
    """The message for an output that cannot be written."""
    return UserError(
        f"{path} cannot be written: {error.strerror}.\nFree disk space, or choose a different path."
    )
