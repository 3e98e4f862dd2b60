"""SAM's image encoder, and a store that lets a second generation skip it."""

import itertools
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cache.embeddings import EmbeddingStore
from cache.errors import DamagedError
from cache.fingerprint import Fingerprint
from cache.generation import LOCK
from cache.locks import FileLock
from s4m_pipeline import console
from s4m_pipeline.refine.photos import Photo
from s4m_pipeline.sam import BatchedSam, ImageEmbeddings

_LEVELS = ("tokens_BChw", "stride_8", "stride_4")


def open_store(
    folder: Path,
    sam: BatchedSam,
    image_ids: Sequence[int],
    fingerprint: Fingerprint,
    budget_bytes: int,
) -> EmbeddingStore:
    """Make or open the store for these images; shards that begin together share one.

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
    """Embeddings of photos, from SAM or, where the store has them, from there.

    With a store all embeddings are rounded to its float16, those just computed too: labels are then the same
    whether an embedding was stored or not. Storing goes on while the next batch is computed. What is
    stored but damaged is computed and stored again.
    """

    def __init__(self, sam: BatchedSam, store: EmbeddingStore | None = None) -> None:
        self._sam = sam
        self._store = store
        self._threads = ThreadPoolExecutor(4, "embeddings")
        self._storing: list[Future[None]] = []
        self._damages: list[DamagedError] = []

    def encode(self, photos: Sequence[Photo]) -> ImageEmbeddings:
        """Embed B photos, at least one.

        Raises:
            CacheError: if the disk refuses the embeddings of this or the previous batch.
        """
        store = self._store
        if store is None:
            return self._sam.encode([photo.pixels for photo in photos])
        stored = [photo.image_id for photo in photos if photo.image_id in store]
        found = zip(stored, self._threads.map(self._read, itertools.repeat(store), stored), strict=True)
        levels = {image_id: level for image_id, level in found if level is not None}
        levels |= self._compute(store, [photo for photo in photos if photo.image_id not in levels])

        def stacked(name: str) -> Tensor:
            arrays = np.stack([levels[photo.image_id][name] for photo in photos])
            return torch.from_numpy(arrays).to(self._sam.device, self._sam.dtype)

        sizes = tuple((photo.pixels.shape[1], photo.pixels.shape[2]) for photo in photos)
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
        self, store: EmbeddingStore, photos: Sequence[Photo]
    ) -> dict[int, dict[str, NDArray[np.float16]]]:
        if not photos:
            return {}
        embeddings = self._sam.encode([photo.pixels for photo in photos])
        arrays = {name: getattr(embeddings, name).half().cpu().numpy() for name in _LEVELS}
        levels = {
            photo.image_id: {name: array[row] for name, array in arrays.items()}
            for row, photo in enumerate(photos)
        }
        self._wait()
        self._storing = [self._threads.submit(store.put, key, value) for key, value in levels.items()]
        return levels

    def _wait(self) -> None:
        for future in self._storing:
            future.result()
        self._storing = []
