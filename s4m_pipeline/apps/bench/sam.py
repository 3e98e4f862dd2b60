"""Our batched SAM 2 against the stock per-image predictor, in turn in one run: seconds per image and memory.

The stock path is what public code does: `SAM2ImagePredictor` image by image, all three masks of each prompt
upsampled to full size and brought to the CPU, the best one kept there. Ours leaves boolean masks of the
chosen outputs on the device. Random weights: time does not depend on them.

On a CPU the seconds are processor time of one thread, so that other work on the machine counts for neither.
"""

import copy
import functools
import statistics
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from rich.table import Table
from sam2.sam2_image_predictor import SAM2ImagePredictor
from torch.utils.flop_counter import FlopCounterMode

from s4m_pipeline.apps.bench.timing import choose_device, device_name, now, show
from s4m_pipeline.sam import BatchedSam, Prompts, build_sam, full_size_masks

NUM_POINTS = 3
PARTS = ("encode", "decode", "post-process")
MasksOfImages = list[np.ndarray]


class Stopwatch:
    """Seconds spent in named parts, the device's work included."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        start = now(self.device)
        yield
        self.seconds[name] += now(self.device) - start


class StockPath:
    """One image after the other through `SAM2ImagePredictor`."""

    def __init__(self, sam_network: torch.nn.Module, device: torch.device) -> None:
        self.predictor = SAM2ImagePredictor(sam_network.to(device))
        self.upsample = self.predictor._transforms.postprocess_masks

    def run(self, images: torch.Tensor, points_xy_px: torch.Tensor, watch: Stopwatch) -> MasksOfImages:
        """`images` (B, 3, H, W) uint8, `points_xy_px` (B, N, K, 2); returns B arrays (N, H, W) bool."""
        chosen = []
        labels = np.ones(points_xy_px.shape[1:3], dtype=np.int64)
        for image, points in zip(images, points_xy_px, strict=True):
            with watch.part("encode"):
                self.predictor.set_image(image.permute(1, 2, 0).numpy())
            with watch.part("decode"):
                low = self._decode(points.numpy(), labels)
            with watch.part("post-process"):
                masks = self.upsample(low[0], tuple(image.shape[1:])) > self.predictor.mask_threshold
                every = masks.float().cpu().numpy()
                best = low[1].float().cpu().numpy().argmax(axis=1)
                chosen.append(every[np.arange(len(every)), best].astype(bool))
        return chosen

    def _decode(self, points: np.ndarray, labels: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """The predictor's own steps up to its upsampling: logits (N, 3, 256, 256) and IoU (N, 3)."""
        self.predictor._transforms.postprocess_masks = lambda low, _: low
        _, coords, point_labels, _ = self.predictor._prep_prompts(points, labels, None, None, True)
        logits, iou, _ = self.predictor._predict(coords, point_labels, return_logits=True)
        return logits, iou


class BatchedPath:
    """All images and prompts through `BatchedSam`."""

    def __init__(self, sam_network: torch.nn.Module, device: torch.device) -> None:
        self.sam = BatchedSam(sam_network, device=device)

    def run(self, images: torch.Tensor, points_xy_px: torch.Tensor, watch: Stopwatch) -> MasksOfImages:
        """As `StockPath.run`; handing the masks to the CPU for comparison is not part of the work timed."""
        num_images, num_prompts = points_xy_px.shape[:2]
        image_index = torch.arange(num_images, device=self.sam.device).repeat_interleave(num_prompts)
        with watch.part("encode"):
            embeddings = self.sam.encode(list(images))
        with watch.part("decode"):
            decoded = self.sam.decode(
                embeddings, image_index, Prompts(points_xy_px=points_xy_px.flatten(0, 1))
            )
        with watch.part("post-process"):
            pieces = [
                m for _, m in full_size_masks(decoded.logits[:, 0], image_index, embeddings.image_hw_px)
            ]
        return list(torch.cat(pieces).unflatten(0, (num_images, num_prompts)).cpu().numpy())


def main(
    num_images: int = 1,
    num_instances: int = 20,
    image_hw_px: tuple[int, int] = (1024, 2048),
    repeats: int = 3,
) -> None:
    """Print the comparison; each repeat runs the stock path, then ours, after one warm-up of both."""
    on = choose_device()
    model = f"facebook/sam2.1-hiera-{'large' if on.type == 'cuda' else 'tiny'}"
    torch.manual_seed(0)
    network = build_sam(model).requires_grad_(False)
    images = torch.randint(0, 256, (num_images, 3, *image_hw_px), dtype=torch.uint8)
    size_wh = torch.tensor(image_hw_px).flip(0)
    points_xy_px = torch.rand((num_images, num_instances, NUM_POINTS, 2)) * size_wh
    batched = BatchedPath(copy.deepcopy(network), on)
    paths: dict[str, StockPath | BatchedPath] = {"stock": StockPath(network, on), "batched": batched}
    seconds: dict[str, list[dict[str, float]]] = {name: [] for name in paths}
    memory_mib: dict[str, float] = {}
    masks: dict[str, MasksOfImages] = {}
    for repeat in range(repeats + 1):
        for name, path in paths.items():
            masks.pop(name, None)
            watch = Stopwatch(on)

            work = functools.partial(path.run, images, points_xy_px, watch)
            masks[name], memory_mib[name] = _with_peak_memory(work, on)
            if repeat > 0:
                seconds[name].append({part: watch.seconds[part] / num_images for part in PARTS})
    show(_table(seconds, memory_mib, f"{model}, {num_images} images {image_hw_px}, {num_instances} prompts"))
    show(f"device: {device_name(on)}; torch {torch.__version__}")
    rate = _encoder_gflop(batched.sam, images[:1]) / _median(seconds["batched"], ("encode",)) / 1000
    uncounted = (
        "" if on.type == "cuda" else ", without the attention products, which torch counts on a GPU only"
    )
    show(f"encoder: {rate:.3f} TFLOP/s over the whole of our encode step{uncounted}")
    differing = np.mean([(a != b).mean() for a, b in zip(masks["stock"], masks["batched"], strict=True)])
    show(f"pixels that differ between the two paths' chosen masks: {differing:.1e}")


def _table(seconds: dict[str, list[dict[str, float]]], memory_mib: dict[str, float], title: str) -> Table:
    table = Table(title=f"{title}; median seconds per image (range)")
    for heading in ("", "stock predictor", "batched", "stock / batched"):
        table.add_column(heading, justify="left" if heading == "" else "right")
    for label, parts in [*((part, (part,)) for part in PARTS), ("total", PARTS)]:
        cells = [_cell(seconds[name], parts) for name in ("stock", "batched")]
        ratio = _median(seconds["stock"], parts) / _median(seconds["batched"], parts)
        table.add_row(label, *cells, f"{ratio:.2f}", end_section=label == PARTS[-1])
    cells = [f"{memory_mib[name]:.0f} MiB" for name in ("stock", "batched")]
    table.add_row("peak memory above start", *cells, f"{memory_mib['stock'] / memory_mib['batched']:.2f}")
    return table


def _sums(runs: list[dict[str, float]], parts: tuple[str, ...]) -> list[float]:
    return [sum(run[part] for part in parts) for run in runs]


def _median(runs: list[dict[str, float]], parts: tuple[str, ...]) -> float:
    return statistics.median(_sums(runs, parts))


def _cell(runs: list[dict[str, float]], parts: tuple[str, ...]) -> str:
    sums = _sums(runs, parts)
    return f"{statistics.median(sums):.3f} ({min(sums):.3f}-{max(sums):.3f})"


def _with_peak_memory(work: Callable[[], MasksOfImages], device: torch.device) -> tuple[MasksOfImages, float]:
    """Run `work`; also its peak memory in MiB above the start: allocated on a GPU, else resident (Linux)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        result = work()
        return result, (torch.cuda.max_memory_allocated(device) - before) / 2**20
    start_mib = _resident_mib()
    peak_mib, done = start_mib, threading.Event()

    def sample() -> None:
        nonlocal peak_mib
        while not done.wait(0.005):
            peak_mib = max(peak_mib, _resident_mib())

    sampler = threading.Thread(target=sample)
    sampler.start()
    result = work()
    done.set()
    sampler.join()
    return result, peak_mib - start_mib


def _resident_mib() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def _encoder_gflop(sam: BatchedSam, image: torch.Tensor) -> float:
    with FlopCounterMode(display=False) as counter:
        sam.encode(list(image))
    return float(counter.get_total_flops()) / 1e9
