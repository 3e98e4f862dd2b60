"""Writing one shard: append images, commit them as parts, resume after a kill."""

import shutil
from collections.abc import Callable
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from s4m_cache.atomic import TEMPORARY, discard_leftovers
from s4m_cache.errors import CacheError, LockedError, disk_error, require_space
from s4m_cache.generation import Generation
from s4m_cache.locks import FileLock
from s4m_cache.parts import write_part
from s4m_cache.records import ImageLabels, check
from s4m_cache.sharding import ShardSpec
from s4m_cache.storage import Unlocked, storage


class ShardWriter:
    """Writes the labels of one shard's images, in any order, as parts that are complete or absent.

    Opening it removes the unfinished parts, and the unfinished notes about the shard (files `NAME-0003.json`
    beside the parts), of a killed writer. Leaving the `with` block commits what was appended, unless an
    exception was raised; a kill loses only the images since the last commit.

        with ShardWriter(generation, ShardSpec.parse("3/8")) as writer:
            for image_id in writer.pending:
                writer.append(label(image_id))

    Args:
        generation: begun, not published.
        shard: one of its shards.
        max_images: commit after this many images.
        max_bytes: commit after this many bytes of packed masks.

    Attributes:
        pending: int64, sorted: the shard's images that had no labels when the writer was opened.
        num_stored: images of this shard that already had labels.
        num_discarded: unfinished parts of a killed writer, removed when opening.
        on_commit: called after a part was stored, by the thread that stored it.

    Raises:
        LockedError: if another process writes this shard; the message names its host and process.
        CacheError: if the shard is not one of the generation's, it was removed, or writing fails; after a
            part was stored, if there is no space for another one like it.
        DamagedError: if a stored part is damaged.
    """

    def __init__(
        self, generation: Generation, shard: ShardSpec, *, max_images: int = 256, max_bytes: int = 64 << 20
    ) -> None:
        spec = generation.spec
        if shard.count != spec.num_shards:
            raise CacheError(
                f"shard {shard}: {generation.path} is divided into {spec.num_shards} shards. "
                f"Use --shard i/{spec.num_shards}, or start a new generation to divide differently"
            )
        self.generation, self.shard = generation, shard
        self.max_images, self.max_bytes = max_images, max_bytes
        self._pin = generation.pin()
        self._lock = self._take_shard()
        assigned = shard.assigned(generation.image_ids)
        try:
            self.num_discarded = self._discard_leftovers()
            stored = generation.stored_ids()
        except CacheError:
            self.close()
            raise
        self.pending: NDArray[np.int64] = np.setdiff1d(assigned, stored, assume_unique=True)
        self.num_stored = assigned.size - self.pending.size
        self._open_ids = set(self.pending.tolist())
        self._buffer: list[ImageLabels] = []
        self._buffer_bytes = 0
        self.on_commit: Callable[[], None] = lambda: None

    def append(self, labels: ImageLabels) -> None:
        """Add the labels of one image; commits when a limit is reached.

        Raises:
            CacheError: if the image is not pending in this shard, the labels do not fit their image, or
                writing fails.
        """
        check(labels, len(self.generation.spec.classes))
        if labels.image_id not in self._open_ids:
            raise CacheError(
                f"image {labels.image_id} is not pending in shard {self.shard} of {self.generation.path}: "
                "it has labels already or belongs to another shard"
            )
        self._open_ids.remove(labels.image_id)
        self._buffer.append(labels)
        self._buffer_bytes += _packed_bytes(labels)
        if len(self._buffer) >= self.max_images or self._buffer_bytes >= self.max_bytes:
            self.commit()

    def commit(self) -> None:
        """Store what was appended as one part, durably.

        Raises:
            CacheError: if writing fails; the images are then pending again. Also if it succeeds, but the
                disk has no space for a next part of this size.
        """
        if not self._buffer:
            return
        images, needed = self._buffer, self._buffer_bytes + 65_536
        self._buffer, self._buffer_bytes = [], 0
        path = self.generation.next_part_path(self._prefix)
        try:
            write_part(path, images)
        except OSError as error:
            self._open_ids.update(image.image_id for image in images)
            raise disk_error(path, needed, error) from error
        self.on_commit()
        if self._open_ids:
            require_space(path.parent, needed, "the next part")

    def close(self) -> None:
        """Release the shard without committing."""
        self._lock.release()
        self._pin.release()

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.commit()
        finally:
            self.close()

    @property
    def _prefix(self) -> str:
        return f"part-{self.shard.index:04d}-"

    def _take_shard(self) -> FileLock | Unlocked:
        path = self.generation.path / f"shard-{self.shard.index:04d}.lock"
        try:
            return storage(path).lock(path, exclusive=True)
        except LockedError as error:
            self._pin.release()
            raise LockedError(
                f"shard {self.shard} of {self.generation.path} is being written: {error}. "
                "Stop that process, or run a different shard; locks of ended processes are released"
            ) from None
        except OSError as error:
            self._pin.release()
            raise disk_error(path, 4096, error) from error

    def _discard_leftovers(self) -> int:
        # This process holds the shard's lock, so the writer that left them has ended.
        discard_leftovers(self.generation.path / f"shard-{self.shard.index:04d}.json")  # its record
        parts = [
            path for path in self.generation.leftovers() if path.name.startswith(TEMPORARY + self._prefix)
        ]
        for path in parts:
            shutil.rmtree(path)
        return len(parts)


def _packed_bytes(labels: ImageLabels) -> int:
    raw = labels.instances.raw_masks
    return labels.instances.refined_masks.bits.nbytes + (0 if raw is None else raw.bits.nbytes)
