"""Small labels and generations for the cache's tests, the same at every call."""

import os
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path

import numpy as np

from s4m_cache.generation import Generation, GenerationSpec
from s4m_cache.generations import begin, publish
from s4m_cache.records import ImageLabels, Instances
from s4m_cache.sharding import ShardSpec
from s4m_cache.writer import ShardWriter

CLASSES = ("car", "person", "tree")
CATEGORY_IDS = (24, 26, 7)


def make_labels(image_id: int, height: int = 40, width: int = 56, count: int | None = None) -> ImageLabels:
    """Labels that depend on nothing but the arguments; some have no instance, some masks touch edges."""
    rng = np.random.default_rng(image_id)
    count = int(rng.integers(0, 6)) if count is None else count
    masks = np.zeros((2, count, height, width), bool)
    for mask in masks.reshape(-1, height, width):
        y, x = rng.integers(0, height - 4), rng.integers(0, width - 4)
        h, w = rng.integers(4, height), rng.integers(4, width)
        box = mask[y : y + h, x : x + w]
        box[...] = rng.random(box.shape) < 0.7
    instances = Instances.create(
        masks=masks[0],
        raw_masks=masks[1],
        labels=rng.integers(0, len(CLASSES), count),
        scores=rng.uniform(0.7, 1, count),
        pred_ious=rng.uniform(0.5, 1, count),
        use_raw=rng.random(count) < 0.2,
        ignored=rng.random(count) < 0.2,
    )
    return ImageLabels(image_id=image_id, height=height, width=width, instances=instances)


def make_spec(image_ids=range(12), num_shards: int = 1, **fingerprint) -> GenerationSpec:
    return GenerationSpec(
        image_ids=list(image_ids),
        classes=CLASSES,
        category_ids=CATEGORY_IDS,
        num_shards=num_shards,
        fingerprint={"teacher": "sha256:aaaa", "score_threshold": 0.7, **fingerprint},
    )


def fill(generation: Generation, shard: str = "1/1", max_images: int = 5) -> None:
    """Write what the shard still lacks."""
    with ShardWriter(generation, ShardSpec.parse(shard), max_images=max_images) as writer:
        for image_id in writer.pending.tolist():
            writer.append(make_labels(image_id))


def make_published(root: Path, image_ids=range(12), number: int | None = None, **fingerprint) -> Generation:
    generation = begin(root, make_spec(image_ids, **fingerprint), number)
    fill(generation)
    publish(generation)
    return generation


def assert_same_labels(found: ImageLabels, expected: ImageLabels) -> None:
    """Equal to the bit, the teacher's masks included."""
    assert (found.image_id, found.height, found.width) == (expected.image_id, expected.height, expected.width)
    for name in ("labels", "scores", "pred_ious", "raw_ious", "use_raw", "ignored"):
        a, b = getattr(found.instances, name), getattr(expected.instances, name)
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    for name in ("masks", "refined_masks", "raw_masks"):
        a, b = getattr(found.instances, name), getattr(expected.instances, name)
        np.testing.assert_array_equal(a.boxes, b.boxes)
        np.testing.assert_array_equal(a.bits, b.bits)


@contextmanager
def unprivileged(folder: Path) -> Iterator[None]:
    """Work in `folder`, which must let others in, as a user whom permissions bind, unlike root."""
    user = os.geteuid()
    with chdir(folder):  # the folders above a test's own let nobody else in
        if user == 0:
            os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(user)


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
