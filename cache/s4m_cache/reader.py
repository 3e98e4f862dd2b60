"""Random access to the labels of a generation by image id, from any number of processes."""

import copy
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from s4m_cache.errors import CacheError
from s4m_cache.generation import PARTS, Generation
from s4m_cache.generations import current
from s4m_cache.locks import FileLock
from s4m_cache.parts import Part
from s4m_cache.records import ImageLabels
from s4m_cache.schema import BITS, COLUMNS
from s4m_cache.storage import Unlocked, storage

OPEN_IMAGES = 131_072
"""Images whose parts a reader keeps open, all of COCO's: about 50 MB with 7 instances each."""


class CacheReader:
    """Reads the labels of one generation and keeps it pinned until closed.

    Opening reads the manifests only, and keeps 16 bytes for each image; the small arrays of a part are read
    with the first of its images and kept for the last OPEN_IMAGES ones, masks are read image by image. A
    reader may be pickled or inherited by `fork`: the new process opens the files and pins
    the generation itself.

    Args:
        generation: complete or not; `CacheReader.current` opens the published one.
        preload_bytes: keep packed masks in memory, part by part as they are first read, up to this many bytes
            in each process.

    Attributes:
        generation: the generation.
        image_ids: int64, sorted: the images that have labels.

    Raises:
        CacheError: if the generation does not exist.
        DamagedError: if a part's manifest or file sizes are wrong.
    """

    def __init__(self, generation: Generation, *, preload_bytes: int = 0) -> None:
        self.generation = generation
        self.preload_bytes = preload_bytes
        pin = generation.pin()
        self._pin: FileLock | Unlocked | None = pin
        self._process = os.getpid()
        try:
            self._names = [path.name for path in generation.part_paths()]
            ids, ends = array("q"), [0]
            for part in self._parts():  # not kept: a million small arrays would leave holes in the memory
                ids.frombytes(part.image_ids.tobytes())
                ends.append(len(ids))
        except CacheError:
            pin.release()
            raise
        self._open: dict[int, Part] = {}  # by index into the names, the one used last at the end
        self._preloaded: dict[tuple[int, str], NDArray[np.uint8]] = {}
        # If an image is in two parts, the first part by name counts: `np.unique` returns the first index.
        self.image_ids, first = np.unique(np.asarray(ids, np.int64), return_index=True)
        starts = np.asarray(ends)
        self._part_of = (np.searchsorted(starts, first, side="right") - 1).astype(np.int32)
        self._row_of = (first - starts[self._part_of]).astype(np.int32)

    @classmethod
    def current(cls, root: Path, *, preload_bytes: int = 0) -> "CacheReader":
        """Open the published generation.

        Raises:
            CacheError: if there is none, or it lacks images.
        """
        while True:
            generation = current(root)
            try:
                reader = cls(generation, preload_bytes=preload_bytes)
            except CacheError:
                if current(root) == generation:
                    raise
                continue  # meanwhile a later one was published and this one removed
            if np.setdiff1d(generation.image_ids, reader.image_ids, assume_unique=True).size:
                reader.close()
                generation.refuse_incomplete()
            return reader

    def __len__(self) -> int:
        return self.image_ids.size

    def __contains__(self, image_id: int) -> bool:
        return self._find(image_id) is not None

    def read(self, image_id: int, *, raw: bool = False) -> ImageLabels:
        """The labels of one image; with `raw` also the teacher's masks before refinement.

        Raises:
            CacheError: if the image has no labels in this generation.
            DamagedError: if its bytes are damaged.
        """
        return self.read_many([image_id], raw=raw)[0]

    def read_many(self, image_ids: Sequence[int], *, raw: bool = False) -> list[ImageLabels]:
        """The labels of several images, in the given order; neighbors on disk are read together.

        Raises:
            CacheError, DamagedError: as `read`.
        """
        self._reopen_after_fork()
        places = [self._place(image_id) for image_id in image_ids]
        labels: dict[tuple[int, int], ImageLabels] = {}
        for index, first, last in _runs(sorted(set(places))):
            part = self._part(index)
            names = BITS if raw or part.needs_raw(first, last) else ["bits"]
            bits = {name: self._bits(index, name, first, last) for name in names}
            entries = part.labels(first, last, bits)
            labels.update(((index, first + i), entry) for i, entry in enumerate(entries))
        return [labels[place] for place in places]

    def column(self, name: str) -> NDArray[Any]:
        """One small array (see `schema.COLUMNS`), concatenated over all parts: for counts and histograms."""
        return np.concatenate([COLUMNS[name].empty(), *(part.columns[name] for part in self._parts())])

    def instance_counts(self) -> NDArray[np.int64]:
        """Instances of each image, int64, in the order of `column("image_id")`."""
        counts = [np.diff(part.columns["inst_ptr"]) for part in self._parts()]
        return np.concatenate([np.zeros(0, np.int64), *counts])

    def mean_per_image(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Mean over the instances of each image, in the order of `column("image_id")`; NaN without any.

        Args:
            values: one for each instance, such as a column.
        """
        counts = self.instance_counts()
        sums = np.bincount(np.repeat(np.arange(counts.size), counts), values, minlength=counts.size)
        with np.errstate(invalid="ignore"):
            return sums / counts

    @property
    def size_bytes(self) -> int:
        """Bytes on disk."""
        return sum(part.size_bytes for part in self._parts())

    def close(self) -> None:
        """Release the generation; reading is an error afterwards."""
        if self._pin is not None:
            self._pin.release()
        self._pin = None
        self._open.clear()

    def __enter__(self) -> "CacheReader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_pin": None, "_process": None, "_open": {}, "_preloaded": {}}

    def _reopen_after_fork(self) -> None:
        """In a process that did not open this reader: pin the generation and reopen the files."""
        if self._process == os.getpid():
            if self._pin is None:
                raise CacheError(f"{self.generation.path}: this reader is closed")
            return
        # A new path: connections to an object store do not survive a fork.
        self.generation = Generation(copy.copy(self.generation.root), self.generation.number)
        self._pin = self.generation.pin()
        self._open.clear()
        self._process = os.getpid()

    def _parts(self) -> Iterable[Part]:
        """All parts in order, opened and not kept."""
        paths = [self.generation.path / PARTS / name for name in self._names]
        return storage(self.generation.path).each(Part, paths)

    def _part(self, index: int) -> Part:
        """A part, opened if it is not open; those used longest ago are then closed."""
        if index in self._open:
            part = self._open[index] = self._open.pop(index)  # now the last one
            return part
        part = self._open[index] = Part(self.generation.path / PARTS / self._names[index])
        num_images = sum(opened.image_ids.size for opened in self._open.values())
        while num_images > OPEN_IMAGES and len(self._open) > 1:
            num_images -= self._open.pop(next(iter(self._open))).image_ids.size
        return part

    def _find(self, image_id: int) -> int | None:
        index = int(np.searchsorted(self.image_ids, image_id))
        return index if index < self.image_ids.size and self.image_ids[index] == image_id else None

    def _place(self, image_id: int) -> tuple[int, int]:
        """Part and row of an image."""
        index = self._find(image_id)
        if index is None:
            raise CacheError(
                f"{self.generation.path} has no labels for image {image_id}, only for {len(self)} different "
                "images. If the list of unlabeled images changed after refine, run refine again"
            )
        return int(self._part_of[index]), int(self._row_of[index])

    def _bits(self, part_index: int, name: str, first: int, last: int) -> NDArray[np.uint8]:
        part, key = self._part(part_index), (part_index, name)
        start, stop = part.byte_ptr[name][[first, last]].tolist()
        used = sum(data.nbytes for data in self._preloaded.values())
        if key not in self._preloaded and used + int(part.byte_ptr[name][-1]) <= self.preload_bytes:
            self._preloaded[key] = part.read_bits(name, 0, part.image_ids.size)
        if key in self._preloaded:
            return self._preloaded[key][start:stop]
        return part.read_bits(name, first, last)


def _runs(places: list[tuple[int, int]]) -> Iterator[tuple[int, int, int]]:
    """Group sorted (part, row) pairs into runs of consecutive rows: (part, first row, last row + 1)."""
    start = 0
    for end in range(1, len(places) + 1):
        if end == len(places) or places[end] != (places[end - 1][0], places[end - 1][1] + 1):
            yield places[start][0], places[start][1], places[end - 1][1] + 1
            start = end
