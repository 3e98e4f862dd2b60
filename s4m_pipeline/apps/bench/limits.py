"""How far the networks are from what the processor can do: operations counted, peak measured in the same run.

    s4m bench limits

The peak is that of a large matrix product in float32, on the same device. Operations are those that torch's
`FlopCounterMode` counts: matrix products and convolutions; all other work counts as distance from the limit.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from s4m_pipeline.apps.bench.loss import SIZES, build_heads, draw_batch, run_losses
from s4m_pipeline.apps.bench.refine import build_networks
from s4m_pipeline.apps.bench.timing import choose_device, device_name, show, time_in_turn
from s4m_pipeline.models.registry import register_all

SIDE = 1024
"""Of the matrices whose product is the peak."""


def main() -> None:
    """Print operations, seconds, and the fraction of the peak that each path reaches."""
    register_all()
    device = choose_device()
    paths = {"matrix product": _product(device), **_paths(device)}
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = _OneModule()  # type: ignore[assignment]  # torch's fails in modules without gradients
    with counter:
        operations = {name: _counted(counter, run) for name, run in paths.items()}
    seconds = time_in_turn(paths, device)
    peak = operations["matrix product"] / seconds["matrix product"]
    table = Table("", "GFLOP", "seconds", "at the peak, s", "of the peak", title=device_name(device))
    for name, count in operations.items():
        table.add_row(
            name,
            f"{count / 1e9:.2f}",
            f"{seconds[name]:.4f}",
            f"{count / peak:.4f}",
            f"{count / peak / seconds[name]:.0%}",
        )
    show(table)


def _paths(device: torch.device) -> dict[str, Callable[[], Any]]:
    networks = build_networks(device)
    size = SIZES["demo" if device.type == "cpu" else "Cityscapes"]
    images = torch.rand(size.images, 3, *size.crop_hw, device=device)
    photos = [(255 * image).to(torch.uint8).cpu() for image in images]
    heads = build_heads(size, device)
    loss, _ = run_losses(heads, draw_batch(heads[0], size, device))

    def forward() -> Any:
        network = networks.teacher
        return network.panoptic_head(network.extract_feat(images), [])

    def train() -> None:
        classes, masks = forward()
        sum(layer.square().mean() for layer in (*classes, *masks)).backward()

    def without_gradients(run: Callable[[], Any]) -> Callable[[], Any]:
        return torch.no_grad()(run)

    about = f"{size.images} images of {size.crop_hw[0]} x {size.crop_hw[1]}"
    return {
        f"network, forward, {about}": without_gradients(forward),
        f"network, forward and backward, {about}": train,
        "its loss, forward and backward": loss,
        f"SAM's encoder, {size.images} images": without_gradients(lambda: networks.sam.encode(photos)),
    }


class _OneModule(nullcontext[None]):
    """Operations are not told apart by module."""

    parents = frozenset({"Global"})


def _product(device: torch.device) -> Callable[[], torch.Tensor]:
    left, right = torch.rand(2, SIDE, SIDE, device=device)
    return lambda: left @ right


def _counted(counter: FlopCounterMode, run: Callable[[], Any]) -> int:
    before = counter.get_total_flops()
    run()
    return counter.get_total_flops() - before
