"""Random access to a generation by image id, from any number of processes."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.errors import CacheError
from cache.generation import Generation
from cache.generations import current
from cache.locks import FileLock
from cache.records import ImageLabels
from cache.schema import BITS, COLUMNS


class CacheReader:
    """Reads the labels of one generation and keeps it pinned until closed.

    Opening reads the manifests only; a part's small arrays are read when one of its images is first asked
    for, masks image by image. A reader may be pickled or inherited by `fork`: the other process opens files
    and pins for itself.

    Args:
        generation: complete or not; `CacheReader.current` takes the published one.
        preload_bytes: keep packed masks in memory, part by part as they are touched, up to this many bytes in
            each process.

    Attributes:
        generation: what is read.
        image_ids: int64, sorted: the images that have labels.

    Raises:
        CacheError: if the generation is gone.
        DamagedError: if a part's manifest or file sizes are wrong.
    """

    def __init__(self, generation: Generation, *, preload_bytes: int = 0) -> None:
        self.generation = generation
        self.preload_bytes = preload_bytes
        pin = generation.pin()
        self._pin: FileLock | None = pin
        self._process = os.getpid()
        try:
            self._parts = generation.parts()
        except CacheError:
            pin.release()
            raise
        self._preloaded: dict[tuple[int, str], NDArray[np.uint8]] = {}
        ids = [np.zeros(0, np.int64), *(part.image_ids for part in self._parts)]
        # Should an image be in two parts, the first by name counts: a stable sort keeps it in front.
        self.image_ids, first = np.unique(np.concatenate(ids), return_index=True)
        starts = np.cumsum([0] + [part.image_ids.size for part in self._parts])
        self._part_of = (np.searchsorted(starts, first, side="right") - 1).astype(np.int32)
        self._row_of = (first - starts[self._part_of]).astype(np.int32)

    @classmethod
    def current(cls, root: Path, *, preload_bytes: int = 0) -> "CacheReader":
        """Open the published generation.

        Raises:
            CacheError: if there is none, or images are missing in it.
        """
        while True:
            generation = current(root)
            try:
                reader = cls(generation, preload_bytes=preload_bytes)
            except CacheError:
                if current(root) == generation:
                    raise
                continue  # a later one was published, and this one retired, in between
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
            DamagedError: if its bytes are not as written.
        """
        return self.read_many([image_id], raw=raw)[0]

    def read_many(self, image_ids: Sequence[int], *, raw: bool = False) -> list[ImageLabels]:
        """The labels of several images, in the given order. Neighbours on disk are fetched together.

        Raises:
            CacheError, DamagedError: as `read`.
        """
        self._follow_fork()
        places = [self._place(image_id) for image_id in image_ids]
        labels: dict[tuple[int, int], ImageLabels] = {}
        for index, first, last in _runs(sorted(set(places))):
            bits = {name: self._bits(index, name, first, last) for name in BITS if raw or name == "bits"}
            entries = self._parts[index].labels(first, last, bits)
            labels.update(((index, first + i), entry) for i, entry in enumerate(entries))
        return [labels[place] for place in places]

    def column(self, name: str) -> NDArray[Any]:
        """One small array (see `schema.COLUMNS`) of all parts in a row: for counts and histograms."""
        return np.concatenate([COLUMNS[name].empty(), *(part.columns[name] for part in self._parts)])

    def instance_counts(self) -> NDArray[np.int64]:
        """Instances of each image, int64, in the order of `column("image_id")`."""
        counts = [np.diff(part.columns["inst_ptr"]) for part in self._parts]
        return np.concatenate([np.zeros(0, np.int64), *counts])

    @property
    def size_bytes(self) -> int:
        """Bytes on disk."""
        return sum(part.size_bytes for part in self._parts)

    def close(self) -> None:
        """Let the generation go; reading on is an error."""
        if self._pin is not None:
            self._pin.release()
        self._pin = None
        for part in self._parts:
            part.close()

    def __enter__(self) -> "CacheReader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_pin": None, "_process": None, "_preloaded": {}}

    def _follow_fork(self) -> None:
        """In another process than the one that opened it: pin and open anew."""
        if self._process == os.getpid():
            if self._pin is None:
                raise CacheError(f"{self.generation.path}: this reader is closed")
            return
        self._pin = self.generation.pin()
        for part in self._parts:
            part.close()
        self._process = os.getpid()

    def _find(self, image_id: int) -> int | None:
        index = int(np.searchsorted(self.image_ids, image_id))
        return index if index < self.image_ids.size and self.image_ids[index] == image_id else None

    def _place(self, image_id: int) -> tuple[int, int]:
        """Part and row of an image."""
        index = self._find(image_id)
        if index is None:
            raise CacheError(
                f"{self.generation.path} has no labels for image {image_id}; it holds {len(self)} images. "
                "Was the list of unlabelled images changed after refine?"
            )
        return int(self._part_of[index]), int(self._row_of[index])

    def _bits(self, part_index: int, name: str, first: int, last: int) -> NDArray[np.uint8]:
        part, key = self._parts[part_index], (part_index, name)
        start, stop = part.byte_ptr[name][[first, last]].tolist()
        used = sum(data.nbytes for data in self._preloaded.values())
        if key not in self._preloaded and used + int(part.byte_ptr[name][-1]) <= self.preload_bytes:
            self._preloaded[key] = part.read_bits(name, 0, part.image_ids.size)
        if key in self._preloaded:
            return self._preloaded[key][start:stop]
        return part.read_bits(name, first, last)


def _runs(places: list[tuple[int, int]]) -> Iterator[tuple[int, int, int]]:
    """Group sorted (part, row) into (part, first row, last row + 1) of neighbours."""
    start = 0
    for end in range(1, len(places) + 1):
        if end == len(places) or places[end] != (places[end - 1][0], places[end - 1][1] + 1):
            yield places[start][0], places[start][1], places[end - 1][1] + 1
            start = end
