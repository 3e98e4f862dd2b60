"""Pictures that show what a network has learnt."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from s4m_pipeline import console
from s4m_pipeline.errors import UserError
from s4m_pipeline.options.experiment import load_experiment
from s4m_pipeline.options.groups import SamOptions

if TYPE_CHECKING:
    from s4m_pipeline.engine.checkpoint import Weights
    from s4m_pipeline.models.mask2former import InstanceMask2Former
    from s4m_pipeline.sam import BatchedSam

Point = tuple[float, float]

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _report() -> None:
    """Show what a network has learnt."""


@app.command()
def similarity(
    config: Annotated[Path, typer.Argument(help="Config that the checkpoints were trained with.")],
    checkpoint: Annotated[Path, typer.Argument(help="Teacher: .safetensors, or a training checkpoint .pth.")],
    image: Annotated[Path, typer.Argument(help="An image file.")],
    points: Annotated[
        list[str], typer.Option("--point", metavar="X,Y", help="Pixel looked from; repeat for more rows.")
    ],
    baseline: Annotated[
        Path | None, typer.Option(help="A second checkpoint to compare with, trained without distillation.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Picture to write.")] = Path("similarity.png"),
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of the config.")
    ] = None,
    trust_checkpoint: Annotated[
        bool, typer.Option("--trust-checkpoint", help="Load the checkpoints even if their files run code.")
    ] = False,
) -> None:
    """Draw which places SAM 2 and a teacher find similar to a point (Figure 7 of the paper)."""
    options, parts = load_experiment(config, overrides or [])

    from s4m_pipeline.data.images import read_rgb

    pixels, header = read_rgb(image)
    places = [_parse_point(text, header.width, header.height) for text in points]
    if out.suffix.lower() != ".png":
        raise UserError(f"--out {out}: expected a file name that ends in .png.")
    if not out.parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {out.parent}.\nMake it, or name another place.")
    networks = _load_networks(
        parts, {"teacher": checkpoint} | ({"baseline": baseline} if baseline else {}), trust_checkpoint
    )

    from s4m_pipeline.report.similarity import Column, draw, network_maps, sam_maps

    sam = sam_maps(_load_sam(options.sam), pixels, places, options.sd.target)
    columns = [
        Column(title="SAM 2", subtitle=f"{options.sam.model}, {options.sd.target}", maps_Phw=sam.maps_Phw)
    ]
    for title, (path, network) in networks.items():
        maps = network_maps(network, parts["test_pipeline"], image, sam)
        distance = float((maps - sam.maps_Phw).abs().mean())
        columns.append(Column(title=f"{title}, {distance:.3f} from SAM", subtitle=str(path), maps_Phw=maps))
    draw(pixels, places, columns).save(out)
    console.result.print(f"{out}", markup=False, soft_wrap=True)


def _parse_point(text: str, width: int, height: int) -> Point:
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*,\s*(\d+(?:\.\d+)?)\s*", text)
    if found is None:
        raise UserError(f"--point {text}: expected X,Y in pixels from the top left corner, such as 120,64.")
    x, y = (float(number) for number in found.groups())
    if x > width - 1 or y > height - 1:
        raise UserError(
            f"--point {text} is outside the image of {width} x {height} pixels.\n"
            f"Expected X from 0 to {width - 1} and Y from 0 to {height - 1}."
        )
    return x, y


def _load_networks(
    parts: dict[str, Any], checkpoints: dict[str, Path], trust: bool
) -> dict[str, tuple[Path, "InstanceMask2Former"]]:
    """The network of each checkpoint; all must have been trained for the same classes."""
    from s4m_pipeline.engine.checkpoint import read_weights, require_classes

    weights = {title: read_weights(path, trust=trust) for title, path in checkpoints.items()}
    first, *others = weights.values()
    if first.classes is None:
        raise UserError(
            f"{first.path} does not say which classes it was trained for.\n"
            "Expected the weights.safetensors or a checkpoint of s4m pretrain-teacher."
        )
    for other in others:
        require_classes(other, first.classes, str(first.path))
    return {title: (found.path, _build(parts, found, first.classes)) for title, found in weights.items()}


def _build(parts: dict[str, Any], weights: "Weights", classes: Sequence[str]) -> "InstanceMask2Former":
    from s4m_pipeline.registry import register_all

    register_all()

    from mmdet.registry import MODELS
    from mmengine.device import get_device

    from s4m_pipeline.engine.checkpoint import load_weights
    from s4m_pipeline.engine.parts import model_config

    network: InstanceMask2Former = MODELS.build(model_config(parts["model"], len(classes)))
    load_weights(network, weights)
    return network.to(get_device()).eval()


def _load_sam(sam: SamOptions) -> "BatchedSam":
    from mmengine.device import get_device

    from s4m_pipeline.sam import BatchedSam, load_sam

    network = load_sam(sam.model, config=sam.config, weights_dir=sam.weights_dir).network
    return BatchedSam(network, device=get_device(), decoder_chunk=sam.decoder_chunk)
