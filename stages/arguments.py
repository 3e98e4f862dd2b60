"""Arguments and options that several commands share, each described once."""

from pathlib import Path
from typing import Annotated

import typer

Config = Annotated[Path, typer.Argument(help="Config of the experiment, a file of configs/.")]
TrainedConfig = Annotated[Path, typer.Argument(help="Config that the checkpoint was trained with.")]
CHECKPOINT_HELP = "Weights: .safetensors, or a training checkpoint .pth."
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

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Delete an earlier run and start anew.")]
AllowPartial = Annotated[
    bool, typer.Option("--allow-partial", help="Start from those initial weights that fit.")
]
Devices = Annotated[
    int,
    typer.Option(min=1, help="Processes to train in, one for each GPU; under torchrun or srun these decide."),
]
