"""`s4m export`: weights and pseudo-labels for other programs."""

import pprint
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from s4m_pipeline.config.experiment import load_experiment
from s4m_pipeline.core import console
from s4m_pipeline.core.errors import UserError
from s4m_stages import export_labels
from s4m_stages.arguments import (
    CHOSEN_CHECKPOINT,
    Overrides,
    TrainedConfig,
    TrustCheckpoint,
    best_of,
    not_writable,
    refuse_existing,
)

if TYPE_CHECKING:
    from s4m_pipeline.apps.export.weights import ChosenWeights
    from s4m_pipeline.models.mask2former import InstanceMask2Former

app = typer.Typer(help="Export weights and pseudo-labels for other programs.", no_args_is_help=True)

MMDET_CONFIG = "mmdet_config.py"
MMDET_CHECKPOINT = "mmdet_checkpoint.pth"

Kind = Annotated[
    Literal["ema", "student"] | None,
    typer.Option(
        "--weights",
        help="Of a .pth: the EMA (exponential moving average) weights, or those after the last iteration.",
        show_default="the EMA weights if there are any",
    ),
]


@app.command()
def weights(
    config_path: TrainedConfig,
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="[CHECKPOINT] OUT",
            help=f"{CHOSEN_CHECKPOINT} Then the file to write, ending in .safetensors.",
        ),
    ],
    kind: Kind = None,
    overrides: Overrides = None,
    trust_checkpoint: TrustCheckpoint = False,
) -> None:
    """Write a network's weights as safetensors, with classes, config and origin in the header."""
    checkpoint, out = _split_paths(config_path, paths)
    if out.suffix != ".safetensors":
        raise UserError(f"{out}: expected a file name that ends in .safetensors.")
    refuse_existing(out)
    chosen, network, _ = _load(config_path, checkpoint, kind, overrides, trust_checkpoint)
    tensors = network.state_dict()

    from s4m_cache.fingerprint import file_hash
    from s4m_pipeline.models.checkpoint import write_weights
    from s4m_pipeline.models.load import named_classes

    file = chosen.weights.file
    about = {
        "config": config_path.stem,
        "source": Path(str(file)).name if file.published is None else file.published,
        "source_hash": file_hash(file.path),
    }
    if chosen.kind is not None:
        about["weights"] = chosen.kind
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_weights(out, tensors, named_classes(chosen.weights), **about)
    except OSError as error:
        raise not_writable(out, error) from error
    console.result.print(f"{out}: {len(tensors)} tensors")


@app.command()
def mmdet(
    config_path: TrainedConfig,
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="[CHECKPOINT] OUT_DIR",
            help=f"{CHOSEN_CHECKPOINT} Then the folder to write: a config and a checkpoint.",
        ),
    ],
    kind: Kind = None,
    overrides: Overrides = None,
    trust_checkpoint: TrustCheckpoint = False,
) -> None:
    """Write a config and a checkpoint that mmdet loads without this project."""
    checkpoint, out_dir = _split_paths(config_path, paths)
    for name in (MMDET_CONFIG, MMDET_CHECKPOINT):
        refuse_existing(out_dir / name)
    chosen, network, config = _load(config_path, checkpoint, kind, overrides, trust_checkpoint)

    import io

    import torch

    from s4m_cache.atomic import write_bytes, write_text
    from s4m_pipeline.apps.export.mmdet_config import mmdet_config
    from s4m_pipeline.models.load import named_classes

    _refuse_depth(config)
    classes = named_classes(chosen.weights)
    settings = mmdet_config(config, classes)
    buffer = io.BytesIO()
    torch.save({"meta": {"dataset_meta": {"classes": classes}}, "state_dict": network.state_dict()}, buffer)
    lines = [
        f"{key} = {pprint.pformat(value, width=100, sort_dicts=False)}\n" for key, value in settings.items()
    ]
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        write_bytes(out_dir / MMDET_CHECKPOINT, buffer.getvalue())
        write_text(out_dir / MMDET_CONFIG, "\n".join(lines))
    except OSError as error:
        raise not_writable(out_dir, error) from error
    for name in (MMDET_CONFIG, MMDET_CHECKPOINT):
        console.result.print(f"{out_dir / name}")


@app.command()
def onnx(
    config_path: TrainedConfig,
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="[CHECKPOINT] OUT.onnx", help=f"{CHOSEN_CHECKPOINT} Then the file to write."),
    ],
    size: Annotated[
        tuple[int, int] | None,
        typer.Option(
            metavar="HEIGHT WIDTH",
            help="Fixed size of inputs in pixels, for networks that cannot be exported without.",
            show_default="any multiples of 32",
        ),
    ] = None,
    kind: Kind = None,
    overrides: Overrides = None,
    trust_checkpoint: TrustCheckpoint = False,
) -> None:
    """Write the network for ONNX Runtime and alike: class probabilities, and masks at stride 4."""
    checkpoint, out = _split_paths(config_path, paths)
    if out.suffix != ".onnx":
        raise UserError(f"{out}: expected a file name that ends in .onnx.")
    refuse_existing(out)

    from s4m_pipeline.apps.export.onnx_file import require_packages, write_onnx
    from s4m_pipeline.models.load import named_classes

    require_packages()
    chosen, network, config = _load(config_path, checkpoint, kind, overrides, trust_checkpoint)
    _refuse_depth(config)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_onnx(network, config, named_classes(chosen.weights), out, size)
    except OSError as error:
        raise not_writable(out, error) from error
    console.result.print(f"{out}: {out.stat().st_size / 1e6:.1f} MB")


app.command()(export_labels.labels)
app.command()(export_labels.review)


def _split_paths(config_path: Path, paths: list[Path]) -> tuple[Path, Path]:
    """The checkpoint, which is the experiment's best unless given, and the output path."""
    if len(paths) > 2:
        raise typer.BadParameter(f"expected a checkpoint and one output path, not {len(paths)} paths")
    return (paths[0] if len(paths) == 2 else best_of(config_path)), paths[-1]


def _refuse_depth(config: dict[str, Any]) -> None:
    """Refuse a network that takes depth maps in.

    Raises:
        UserError: if it does.
    """
    if config["data"].get("depth") is not None:
        raise UserError(
            "The network takes depth maps in (data.depth), which only this project loads.\n"
            "Export a network without them, or its weights alone with `s4m export weights`."
        )


def _load(
    config_path: Path, checkpoint: Path, kind: Any, overrides: list[str] | None, trust: bool
) -> tuple["ChosenWeights", "InstanceMask2Former", dict[str, Any]]:
    """The chosen weights, the config's network with them, and the config."""
    _, config = load_experiment(config_path, overrides or [])

    from s4m_pipeline.apps.export.weights import choose_weights
    from s4m_pipeline.models.load import load_network, named_classes

    chosen = choose_weights(checkpoint, kind, trust=trust)
    network = load_network(config, chosen.weights, len(named_classes(chosen.weights)), device="cpu")
    return chosen, network, config
