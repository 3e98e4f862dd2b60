"""SAM's image encoder, and a store that lets a second generation skip it."""

import itertools
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from s4m_cache.embeddings import EmbeddingStore
from s4m_cache.errors import DamagedError
from s4m_cache.fingerprint import Fingerprint
from s4m_cache.generation import LOCK
from s4m_cache.locks import FileLock
from s4m_pipeline.core import console
from s4m_pipeline.sam.batched import BatchedSam, ImageEmbeddings

_LEVELS = ("tokens_BChw", "stride_8", "stride_4")


def open_store(
    folder: Path,
    sam: BatchedSam,
    image_ids: Sequence[int],
    fingerprint: Fingerprint,
    budget_bytes: int,
) -> EmbeddingStore:
    """Make or open the store for these images; shards that start together use the same one.

    Raises:
        CacheError: as `EmbeddingStore.create`.
    """
    one = sam.encode([torch.zeros(3, 32, 32, dtype=torch.uint8)])
    shapes = {name: tuple(getattr(one, name).shape[1:]) for name in _LEVELS}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / LOCK, exclusive=True, wait=True):
        return EmbeddingStore.create(
            folder, image_ids=image_ids, shapes=shapes, fingerprint=fingerprint, budget_bytes=budget_bytes
        )


class ImageEncoder:
    """Embeddings of images, read from a store or computed by SAM and stored.

    With a store all embeddings are rounded to its float16, those just computed too: labels are then the same
    whether an embedding was stored or not. A batch is stored while the next one is computed. Damaged
    embeddings are computed and stored again.

    Attributes:
        sam: the network that computes, and decodes, the embeddings.
    """

    def __init__(self, sam: BatchedSam, store: EmbeddingStore | None = None) -> None:
        self.sam = sam
        self._store = store
        self._threads = ThreadPoolExecutor(4, "embeddings")
        self._storing: list[Future[None]] = []
        self._damages: list[DamagedError] = []

    def encode(self, image_ids: Sequence[int], images: Sequence[Tensor]) -> ImageEmbeddings:
        """Embed B images (3, H, W) uint8 RGB, at least one.

        Raises:
            CacheError: if the embeddings of this or the previous batch cannot be written.
        """
        store = self._store
        if store is None:
            return self.sam.encode(images)
        stored = [image_id for image_id in image_ids if image_id in store]
        found = zip(stored, self._threads.map(self._read, itertools.repeat(store), stored), strict=True)
        levels = {image_id: level for image_id, level in found if level is not None}
        missing = {key: image for key, image in zip(image_ids, images, strict=True) if key not in levels}
        levels |= self._compute(store, missing)

        def stacked(name: str) -> Tensor:
            arrays = np.stack([levels[image_id][name] for image_id in image_ids])
            return torch.from_numpy(arrays).to(self.sam.device, self.sam.dtype)

        sizes = tuple((image.shape[1], image.shape[2]) for image in images)
        return ImageEmbeddings(**{name: stacked(name) for name in _LEVELS}, image_hw_px=sizes)

    def close(self) -> None:
        """Wait until everything is stored, and say what was damaged."""
        self._wait()
        self._threads.shutdown()
        if self._damages:
            first = self._damages[0]
            console.progress.print(
                f"{len(self._damages)} stored embeddings were damaged ({first.path}: {first.problem}). "
                "They were computed and stored again.",
                soft_wrap=True,
            )

    def _read(self, store: EmbeddingStore, image_id: int) -> dict[str, NDArray[np.float16]] | None:
        try:
            return store.get(image_id)
        except DamagedError as damage:
            self._damages.append(damage)
            return None

    def _compute(
        self, store: EmbeddingStore, images: Mapping[int, Tensor]
    ) -> dict[int, dict[str, NDArray[np.float16]]]:
        if not images:
            return {}
        embeddings = self.sam.encode(list(images.values()))
        arrays = {name: getattr(embeddings, name).half().cpu().numpy() for name in _LEVELS}
        levels = {
            image_id: {name: array[row] for name, array in arrays.items()}
            for row, image_id in enumerate(images)
        }
        self._wait()
        self._storing = [self._threads.submit(store.put, key, value) for key, value in levels.items()]
        return levels

    def _wait(self) -> None:
        for future in self._storing:
            future.result()
        self._storing = []
