"""Memory depends on the size of an image and of a batch, not on how many objects or images there are."""

import multiprocessing
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from s4m_pipeline.apps.predict.predictor import Predictor
from s4m_pipeline.data.unlabeled import load_unlabeled
from s4m_pipeline.refine.images import Photo, PhotoFiles, batches_by_size, load_photos, readable
from s4m_pipeline.refine.labeler import _teacher_labels
from s4m_pipeline.refine.prompts import refine_masks
from s4m_pipeline.refine.selection import Candidates, MaskFrame
from s4m_pipeline.sam import BatchedSam, load_sam

pytestmark = pytest.mark.usefixtures("one_thread")
MIB = 1 << 20
SIDE_PX, OBJECTS = 2000, 160  # dense masks take 610 MiB, their logits 2,441
LIMIT = 400 * MIB


def peak_growth(work: Callable[[], Any]) -> int:
    """Bytes by which the memory of a fork of this process grows at most while it does the work."""
    fork = multiprocessing.get_context("fork")
    receiver, sender = fork.Pipe(duplex=False)

    def measure() -> None:
        before = _peak_bytes()
        work()
        sender.send(_peak_bytes() - before)

    process = fork.Process(target=measure)
    process.start()
    sender.close()
    growth: int = receiver.recv()
    process.join()
    return growth


def _peak_bytes() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def logits() -> torch.Tensor:
    found = torch.full((OBJECTS, SIDE_PX // 4, SIDE_PX // 4), -4.0)
    for number, mask in enumerate(found):
        mask[5 * number : 5 * number + 60, 20:90] = 4.0
    return found


@pytest.fixture(scope="module")
def candidates() -> Candidates:
    ones = torch.ones(OBJECTS)
    frame = MaskFrame((SIDE_PX, SIDE_PX), (SIDE_PX, SIDE_PX))
    return Candidates(torch.zeros(OBJECTS, dtype=torch.int64), ones, ones, logits(), frame)


def test_peak_growth__dense_masks__is_their_size() -> None:
    assert peak_growth(lambda: torch.ones(OBJECTS, SIDE_PX, SIDE_PX, dtype=torch.bool)) > LIMIT


def test_teacher_labels__many_objects_in_a_large_image__take_bounded_memory(candidates: Candidates) -> None:
    none = torch.zeros(3, 1, 1)
    assert peak_growth(lambda: _teacher_labels(Photo(1, none, none), candidates)) < LIMIT


def test_refine_masks__many_objects_in_a_large_image__take_bounded_memory(candidates: Candidates) -> None:
    sam = BatchedSam(load_sam("nano").network)
    with torch.inference_mode():
        embeddings = sam.encode([torch.zeros(3, SIDE_PX, SIDE_PX, dtype=torch.uint8)])
        assert peak_growth(lambda: refine_masks(sam, embeddings, [candidates], [1], kind="box")) < LIMIT


def test_predict__many_objects_in_a_large_image__take_bounded_memory(
    tiny_config: Path, tiny_checkpoint: Path
) -> None:
    network = Predictor(tiny_config, tiny_checkpoint, device="cpu").network
    size, masks = (SIDE_PX, SIDE_PX), logits()
    meta = {"img_shape": size, "ori_shape": size, "batch_input_shape": size}
    classes = torch.zeros(OBJECTS, 3)
    with torch.inference_mode():
        assert peak_growth(lambda: network._instances(classes, masks, meta, rescale=True)) < LIMIT


def test_load_photos__many_images__take_the_memory_of_those_that_wait(tmp_path: Path) -> None:
    sides = [900 + 5 * number for number in range(96)]
    for side in sides:
        Image.new("RGB", (side, side)).save(tmp_path / f"{side}.png", compress_level=1)
    files = PhotoFiles(
        load_unlabeled(tmp_path, tmp_path).images, [{"type": "LoadRGB"}, {"type": "PackDetInputs"}]
    )

    def read() -> None:
        photos = readable(load_photos(files, workers=0, pin_memory=False), pytest.fail)
        assert sum(len(batch) for batch in batches_by_size(photos, 2, 32, None)) == len(sides)

    assert 2 * 3 * sum(side * side for side in sides) > 1.5 * LIMIT  # pixels and the network's inputs
    assert peak_growth(read) < 0.75 * LIMIT
