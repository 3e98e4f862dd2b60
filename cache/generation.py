"""One generation: the pseudo-labels of one teacher for a fixed list of images."""

import io
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache import sealed
from cache.atomic import TEMPORARY, atomic_folder
from cache.errors import CacheError, DamagedError, LockedError, abridged, reading
from cache.fingerprint import Fingerprint, check_plain, explain, explain_list
from cache.locks import FileLock
from cache.parts import Part, refuse_newer
from cache.schema import FORMAT, VERSION
from cache.sharding import ShardSpec

SPEC = "generation.json"
IMAGE_IDS = "image_ids.npy"
PUBLISHED = "PUBLISHED.json"
LOCK = "LOCK"
PARTS = "parts"


@dataclass(frozen=True, kw_only=True)
class GenerationSpec:
    """What a generation is to hold, fixed when it begins.

    Attributes:
        image_ids: the images to label; kept sorted.
        classes: class names; a label is an index into them.
        category_ids: the data set's own id of each class, for COCO export.
        num_shards: into how many shares the work is divided.
        fingerprint: what the labels depend on; two runs that differ in it never mix.
    """

    image_ids: Sequence[int] | NDArray[np.int64]
    classes: Sequence[str]
    category_ids: Sequence[int]
    num_shards: int
    fingerprint: Fingerprint

    def __post_init__(self) -> None:
        ids = np.sort(np.asarray(self.image_ids, np.int64))
        faults = []
        if ids.size == 0:
            faults.append("no image ids")
        if (twice := ids[1:][np.diff(ids) == 0]).size:
            faults.append(f"image ids given more than once: {abridged(twice.tolist())}")
        if not self.classes or len(self.classes) != len(self.category_ids):
            faults.append(f"{len(self.classes)} classes with {len(self.category_ids)} category ids")
        for name, values in (("classes", self.classes), ("category ids", self.category_ids)):
            if len(set(values)) != len(values):
                faults.append(f"{name} given more than once")
        if self.num_shards < 1:
            faults.append(f"{self.num_shards} shards")
        if faults:
            raise CacheError(f"cannot describe a generation: {'; '.join(faults)}")
        check_plain(self.fingerprint)
        object.__setattr__(self, "image_ids", ids)
        object.__setattr__(self, "classes", tuple(self.classes))
        object.__setattr__(self, "category_ids", tuple(int(value) for value in self.category_ids))
        object.__setattr__(self, "fingerprint", dict(self.fingerprint))

    def differences(self, other: "GenerationSpec") -> list[str]:
        """One line for each thing in which labels of `other`, as given, differ from these, as stored."""
        return [
            *explain(self.fingerprint, other.fingerprint),
            *explain_list("classes", self.classes, other.classes),
            *explain_list("category_ids", self.category_ids, other.category_ids),
            *explain_list(
                "image_ids", np.asarray(self.image_ids).tolist(), np.asarray(other.image_ids).tolist()
            ),
        ]


@dataclass(frozen=True)
class Generation:
    """A generation on disk. Cheap to make and to pickle; each question is answered from the disk."""

    root: Path
    number: int

    @property
    def name(self) -> str:
        """`gen-0003`."""
        return f"gen-{self.number:04d}"

    @property
    def path(self) -> Path:
        """Its folder."""
        return self.root / self.name

    @cached_property
    def spec(self) -> GenerationSpec:
        """What it was begun with.

        Raises:
            CacheError: if it does not exist, or a newer version wrote it.
            DamagedError: if its description is damaged.
        """
        try:
            with reading(self.path):
                body = sealed.read(self.path / SPEC, self._remedy)
                ids = (self.path / IMAGE_IDS).read_bytes()
        except FileNotFoundError as error:
            raise self._gone(error) from None
        refuse_newer(self.path, body)
        if zlib.crc32(ids) != body["image_ids_crc32"]:
            problem = f"checksum differs from the one in {SPEC}"
            raise DamagedError(self.path / IMAGE_IDS, problem, remedy=self._remedy)
        return GenerationSpec(
            image_ids=np.load(io.BytesIO(ids), allow_pickle=False),
            classes=body["classes"],
            category_ids=body["category_ids"],
            num_shards=body["num_shards"],
            fingerprint=body["fingerprint"],
        )

    @property
    def image_ids(self) -> NDArray[np.int64]:
        """The images to label, sorted int64."""
        return np.asarray(self.spec.image_ids)

    @property
    def shards(self) -> list[ShardSpec]:
        """Those that it was begun with, in order."""
        count = self.spec.num_shards
        return [ShardSpec(index + 1, count) for index in range(count)]

    def part_paths(self) -> list[Path]:
        """The folders of all parts, whole or damaged, by name.

        Raises:
            CacheError: if they cannot be listed.
            DamagedError: if the folder around them is missing.
        """
        try:
            with reading(self.path / PARTS):
                paths = list((self.path / PARTS).iterdir())
        except FileNotFoundError as error:
            raise self._gone(error) from None
        return sorted(path for path in paths if not path.name.startswith(TEMPORARY))

    def parts(self) -> list[Part]:
        """All parts, opened.

        Raises:
            DamagedError: at the first part whose manifest or file sizes are wrong.
        """
        return [Part(path) for path in self.part_paths()]

    def next_part_path(self, prefix: str) -> Path:
        """A new part's folder, numbered after those whose names begin with `prefix`, e.g. `part-0003-`."""
        names = [path.name for path in self.part_paths() if path.name.startswith(prefix)]
        number = max((int(name.removeprefix(prefix)) for name in names), default=0) + 1
        return self.path / PARTS / f"{prefix}{number:06d}"

    def stored_ids(self) -> NDArray[np.int64]:
        """The images that have labels, sorted int64."""
        ids: NDArray[np.int64] = np.unique(
            np.concatenate([np.zeros(0, np.int64), *(part.image_ids for part in self.parts())])
        )
        return ids

    def missing(self) -> dict[ShardSpec, NDArray[np.int64]]:
        """The images without labels, sorted int64, of each shard that lacks some."""
        absent = np.setdiff1d(self.image_ids, self.stored_ids(), assume_unique=True)
        lacking = {shard: np.intersect1d(shard.assigned(self.image_ids), absent) for shard in self.shards}
        return {shard: ids for shard, ids in lacking.items() if ids.size}

    def published(self) -> dict[str, Any] | None:
        """When it was published, `quality` and `statistics`; None before publication."""
        try:
            return sealed.read(self.path / PUBLISHED)
        except FileNotFoundError:
            return None

    def pin(self) -> FileLock:
        """Keep it from being retired or repaired until the lock is released or this process ends.

        Raises:
            CacheError: if it is retired or under repair at this moment, or cannot be read.
        """
        try:
            with reading(self.path):
                lock = FileLock(self.path / LOCK, exclusive=False)
                if (self.path / SPEC).exists():
                    return lock
            lock.release()
        except FileNotFoundError:
            pass
        except LockedError as error:
            raise LockedError(f"{self.path} is being repaired or retired: {error}. Try again later") from None
        raise CacheError(f"{self.path} is not there (any more). `s4m cache info {self.root}` lists what is")

    def leftovers(self) -> list[Path]:
        """Temporary folders in `parts` and files beside it: of writers at work, or of killed ones."""
        return [
            path for folder in (self.path, self.path / PARTS) for path in sorted(folder.glob(f"{TEMPORARY}*"))
        ]

    def in_use_by_nobody(self) -> FileLock:
        """Keep all readers and writers out until the lock is released.

        Raises:
            LockedError: if there are any.
        """
        try:
            return FileLock(self.path / LOCK, exclusive=True)
        except LockedError:
            raise LockedError(
                f"{self.path} is in use by a training or a refine. Wait for its end, then run again"
            ) from None

    def refuse_incomplete(self) -> None:
        """Refuse when images have no labels.

        Raises:
            CacheError: naming the shards that lack some, and the commands that add them.
        """
        missing = self.missing()
        if not missing:
            return
        lacks = "; ".join(
            f"shard {shard} lacks {ids.size} of {shard.assigned(self.image_ids).size} images"
            for shard, ids in missing.items()
        )
        number, of = f"--generation {self.number}", self.spec.num_shards
        commands = "\n".join(f"  s4m refine CONFIG {number} --shard {shard}" for shard in missing)
        raise CacheError(
            f"{self.path} is incomplete: {len(missing)} of {of} shards absent or unfinished. "
            f"{lacks}. Run what is left, then `s4m cache publish {self.root} {number}` if the last one does "
            f"not:\n{commands}"
        )

    @property
    def _remedy(self) -> str:
        """Of what no repair can mend."""
        return (
            f"Without it nothing in {self.path} can be used or repaired. Remove that folder and run "
            f"`s4m refine CONFIG --generation {self.number}`; if a later one is current, only remove it"
        )

    def _gone(self, error: FileNotFoundError) -> CacheError:
        if self.path.exists():
            return DamagedError(Path(error.filename), "missing", remedy=self._remedy)
        return CacheError(f"{self.path} is not there. `s4m cache info {self.root}` lists what is")


def create(generation: Generation, spec: GenerationSpec) -> None:
    """Write an empty generation such that it is complete or absent.

    Raises:
        OSError: as the file system reports it.
    """
    ids = io.BytesIO()
    np.save(ids, np.asarray(spec.image_ids))
    body = {
        "format": FORMAT,
        "version": VERSION,
        "classes": spec.classes,
        "category_ids": spec.category_ids,
        "num_shards": spec.num_shards,
        "fingerprint": spec.fingerprint,
        "image_ids_crc32": zlib.crc32(ids.getvalue()),
    }
    with atomic_folder(generation.path) as folder:
        (folder / IMAGE_IDS).write_bytes(ids.getvalue())
        (folder / SPEC).write_bytes(sealed.dump(body))
        (folder / LOCK).touch()
        (folder / PARTS).mkdir()
