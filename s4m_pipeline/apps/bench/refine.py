"""Refine as it is against the form of public code, in turn in one run; a second generation against the first.

Public form, image by image: the teacher on one image, the masks of all queries enlarged before any is
chosen, `SAM2ImagePredictor` in fp32, all three masks of each prompt enlarged to the image's size and fetched
as floats, the best one encoded as COCO RLE in JSON. Ours: `Labeler` in batches, packed as the cache keeps
it. The teacher has random weights and a low threshold, so that there is something to refine. On a CPU the
demo's network, its scenes (as they are, and enlarged to 512 x 1024 pixels) and the nano SAM 2, in processor
seconds of one thread; on a GPU the paper's network and SAM 2.1 Hiera-L with random weights on noise of
1024 x 2048 pixels, in seconds by the clock.
"""

import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask
from rich.table import Table
from sam2.sam2_image_predictor import SAM2ImagePredictor
from torch import Tensor

from s4m_cache.parts import write_part
from s4m_pipeline.apps.bench.timing import choose_device, device_name, show, time_in_turn
from s4m_pipeline.config.groups import Recipe
from s4m_pipeline.config.loading import load_config
from s4m_pipeline.core.paths import CONFIGS
from s4m_pipeline.data.scenes.render import SceneStyle, draw_scene
from s4m_pipeline.data.scenes.shapes import DEMO_FAMILIES
from s4m_pipeline.models.registry import register_all
from s4m_pipeline.refine.images import Photo
from s4m_pipeline.refine.labeler import Labeler
from s4m_pipeline.refine.prompts import draw_uniforms, make_prompts
from s4m_pipeline.refine.selection import Candidates, MaskFrame, select_queries
from s4m_pipeline.sam import BatchedSam, build_sam, load_sam
from s4m_pipeline.sam.encoder import ImageEncoder, open_store

SIZES_HW = {"cpu": ((128, 128), (512, 1024)), "cuda": ((1024, 2048),)}
RECIPE = Recipe(min_score=0.25)


class Networks(NamedTuple):
    """The same weights for both forms; `predictor` computes in fp32, `sam` in bf16 on a GPU."""

    teacher: Any
    sam: BatchedSam
    predictor: SAM2ImagePredictor
    batch_size: int


def main() -> None:
    """Print seconds per image of each form and their ratios."""
    register_all()
    device = choose_device()
    networks = build_networks(device)
    for size_hw in SIZES_HW[device.type]:
        _measure(networks, _photos(device, size_hw, count=networks.batch_size), device)


def _measure(networks: Networks, photos: list[Photo], device: torch.device) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(
            Path(folder) / "embeddings", networks.sam, [photo.image_id for photo in photos], {}, 10**11
        )
        stages: dict[str, float] = {}
        forms: dict[str, Callable[[], int]] = {
            "public form": lambda: _public_form(networks, photos, Path(folder)),
            "ours": lambda: _ours(networks, photos, Path(folder), ImageEncoder(networks.sam), stages),
            "ours, embeddings stored": lambda: _ours(
                networks, photos, Path(folder), ImageEncoder(networks.sam, store), {}
            ),
        }
        counts: dict[str, int] = {}

        def run(name: str) -> None:
            counts[name] = forms[name]()

        seconds = time_in_turn({name: partial(run, name) for name in forms}, device, rounds=3)
    _print(seconds, stages, counts, photos, device)


def build_networks(device: torch.device) -> Networks:
    """The demo's network and the nano SAM 2, or the paper's with random weights on a GPU."""

    from s4m_pipeline.models.load import build_network

    on_gpu = device.type == "cuda"
    config, _ = load_config(CONFIGS / ("cityscapes/cityscapes.py" if on_gpu else "demo/demo.py"))
    torch.manual_seed(0)
    teacher = build_network(config, len(DEMO_FAMILIES)).to(device).eval()
    networks = [
        build_sam("facebook/sam2.1-hiera-large") if on_gpu else load_sam("nano").network for _ in range(2)
    ]
    predictor = SAM2ImagePredictor(networks[1].to(device))
    side = predictor.model.image_size  # the predictor takes 1024 for granted
    predictor._bb_feat_sizes = [(side // stride, side // stride) for stride in (4, 8, 16)]
    return Networks(teacher, BatchedSam(networks[0], device=device), predictor, batch_size=8)


def _photos(device: torch.device, size_hw: tuple[int, int], count: int) -> list[Photo]:
    rng = np.random.default_rng(0)
    if device.type == "cuda":
        images = [rng.integers(0, 256, (*size_hw, 3), dtype=np.uint8) for _ in range(count)]
    else:
        scenes = [Image.fromarray(draw_scene(rng, DEMO_FAMILIES, SceneStyle()).image) for _ in range(count)]
        images = [np.array(scene.resize(size_hw[::-1], Image.Resampling.BICUBIC)) for scene in scenes]
    tensors = [torch.from_numpy(image).permute(2, 0, 1).contiguous() for image in images]
    return [Photo(index, tensor, tensor) for index, tensor in enumerate(tensors)]


def _ours(
    networks: Networks, photos: list[Photo], folder: Path, encoder: ImageEncoder, stages: dict[str, float]
) -> int:
    labeler = Labeler(
        networks.teacher,
        encoder,
        RECIPE,
        generation=1,
        batch_size=networks.batch_size,
        precision="bf16",
    )
    labels = labeler.label(photos, ["points"])
    with labeler.stopwatch.measure("writing"):
        packed = [found["points"].record() for found in labels]
        write_part(folder / f"part-{time.monotonic_ns()}", packed)
    encoder.close()
    stages |= labeler.stopwatch.seconds
    return sum(len(labels.instances) for labels in packed)


def _public_form(networks: Networks, photos: list[Photo], folder: Path) -> int:
    records: list[dict[str, Any]] = []
    for photo in photos:
        for mask in label_publicly(networks, photo, RECIPE)[1]:
            rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
            size, counts = mask.shape, rle["counts"].decode()
            records.append({"image_id": photo.image_id, "segmentation": {"size": size, "counts": counts}})
    (folder / "labels.json").write_text(json.dumps(records))
    return len(records)


@torch.inference_mode()
def label_publicly(
    networks: Networks, photo: Photo, recipe: Recipe
) -> tuple[Candidates, NDArray[np.float32]]:
    """One image by the public form: what the teacher keeps, and SAM's mask of each (N, H, W) on the CPU."""
    size = (photo.pixels.shape[1], photo.pixels.shape[2])
    frame = MaskFrame(size, size)
    labeler = Labeler(networks.teacher, None, recipe, generation=1, batch_size=1)
    ((class_logits, mask_logits),) = labeler._run_teacher([photo], [frame])
    _enlarge(mask_logits[None], size)  # mmdet's fusion head does so with every query's mask
    kept = select_queries(
        class_logits,
        mask_logits,
        frame,
        min_score=recipe.min_score,
        min_soft_area=recipe.min_soft_area,
        nms_iou=recipe.nms_iou,
    )
    predictor = networks.predictor
    predictor.set_image(photo.pixels.permute(1, 2, 0).numpy())
    if not len(kept):
        return kept, np.zeros((0, *size), np.float32)
    prompts = make_prompts(
        "points",
        kept.mask_logits,
        kept.frame,
        uniforms=draw_uniforms(0, 1, photo.image_id, len(kept), recipe.points),
        sam_logits_size=size,
    )
    assert prompts.points_xy_px is not None
    points = prompts.points_xy_px.cpu().numpy()
    masks, iou, _ = predictor.predict(points, np.ones(points.shape[:2], np.int64))
    best = iou.reshape(-1, 3).argmax(axis=1)
    return kept, masks.reshape(-1, 3, *size)[np.arange(len(best)), best]


def _enlarge(logits: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(logits, size, mode="bilinear", align_corners=False)


def _print(
    seconds: dict[str, float],
    stages: dict[str, float],
    counts: dict[str, int],
    photos: list[Photo],
    device: torch.device,
) -> None:
    height, width = photos[0].pixels.shape[1:]
    title = f"{len(photos)} images of {height} x {width}, {device_name(device)}"
    table = Table("form", "seconds / image", "speed-up", "instances", title=title)
    for form, median in seconds.items():
        speed_up = seconds["public form"] / median
        table.add_row(form, f"{median / len(photos):.3f}", f"{speed_up:.2f}", f"{counts[form]}")
    show(table)
    total = sum(stages.values())
    show("ours by the clock: " + ", ".join(f"{stage} {value / total:.0%}" for stage, value in stages.items()))
