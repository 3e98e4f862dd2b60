"""Depth maps estimated by a network of Hugging Face's hub, such as Depth Anything V2."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from s4m_cache.atomic import write_bytes
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.core.progress import track
from s4m_pipeline.core.startup import allow
from s4m_pipeline.data.folder import image_files
from s4m_pipeline.data.images import read_rgb
from s4m_pipeline.data.writing import gray_png_bytes


def write_depth(images: Path, out: Path, model: str) -> int:
    """Write a depth map for each image below a folder that has none yet, under its name, as PNG.

    Args:
        model: name on the hub, or a folder.

    Returns:
        How many there are.

    Raises:
        UserError: if there are no images, one is unreadable, or the network cannot be loaded.
        OSError: if the folder cannot be written.
    """
    files = list(image_files(images))
    if not files:
        raise UserError(f"{images}: no images in it. Expected a folder of images.")
    processor, network = _load(model)
    for name, path in track(files, len(files), "Estimating depth"):
        target = (out / name).with_suffix(".png")
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(target, gray_png_bytes(_estimate(processor, network, read_rgb(path)[0])))
    return len(files)


def _load(model: str) -> tuple[Any, Any]:
    allow("transformers")
    try:
        from transformers import AutoImageProcessor, AutoModelForDepthEstimation
    except ModuleNotFoundError as error:
        raise UserError(
            "Depth is estimated with the package transformers, not installed here.\n"
            'Install it with pip install "s4m-pipeline[depth]".'
        ) from error
    try:
        network = AutoModelForDepthEstimation.from_pretrained(model)
        processor = AutoImageProcessor.from_pretrained(model)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"--model {model} cannot be loaded ({reason}).\n"
            "Expected a folder, or the name of a model for depth estimation on Hugging Face's hub, which is "
            "downloaded once."
        ) from error
    return processor, network.to("cuda" if torch.cuda.is_available() else "cpu").eval()


@torch.inference_mode()
def _estimate(processor: Any, network: Any, pixels: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Depth (H, W) of an image (H, W, 3), its range scaled to 0..65535."""
    inputs = processor(images=pixels, return_tensors="pt").to(network.device)
    sizes = [pixels.shape[:2]]
    (found,) = processor.post_process_depth_estimation(network(**inputs), target_sizes=sizes)
    depth = found["predicted_depth"].float()
    depth = (depth - depth.min()) / (depth.max() - depth.min()).clamp(min=1e-6)
    scaled: NDArray[np.uint16] = (depth * 65535).round().cpu().numpy().astype(np.uint16)
    return scaled
