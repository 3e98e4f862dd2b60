"""One generation: the pseudo-labels of one teacher for a fixed list of images."""

import io
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from s4m_cache import sealed
from s4m_cache.atomic import TEMPORARY
from s4m_cache.errors import CacheError, DamagedError, LockedError, abridged, reading
from s4m_cache.fingerprint import Comparison, Fingerprint, check_plain, explain, explain_list
from s4m_cache.locks import FileLock
from s4m_cache.parts import MANIFEST, Part, refuse_newer
from s4m_cache.schema import FORMAT, VERSION
from s4m_cache.sharding import ShardSpec
from s4m_cache.storage import Unlocked, is_remote, storage

SPEC = "generation.json"
IMAGE_IDS = "image_ids.npy"
FILE_NAMES = "file_names.json"
PUBLISHED = "PUBLISHED.json"
LOCK = "LOCK"
PARTS = "parts"


@dataclass(frozen=True, kw_only=True)
class GenerationSpec:
    """Description of a generation, fixed when it begins.

    Attributes:
        image_ids: the images to label, sorted.
        classes: class names; a label is an index into them.
        category_ids: the data set's id of each class, for COCO export.
        num_shards: number of shards that the images are divided into.
        fingerprint: what the labels depend on; a generation holds labels of one fingerprint only.
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
            faults.append(f"{len(self.classes)} classes but {len(self.category_ids)} category ids")
        for name, values in (("classes", self.classes), ("category ids", self.category_ids)):
            if len(set(values)) != len(values):
                faults.append(f"{name} given more than once")
        if self.num_shards < 1:
            faults.append(f"{self.num_shards} shards")
        if faults:
            raise CacheError(f"invalid description of a generation: {'; '.join(faults)}")
        check_plain(self.fingerprint)
        object.__setattr__(self, "image_ids", ids)
        object.__setattr__(self, "classes", tuple(self.classes))
        object.__setattr__(self, "category_ids", tuple(int(value) for value in self.category_ids))
        object.__setattr__(self, "fingerprint", dict(self.fingerprint))

    def differences(self, other: "GenerationSpec", compare: Comparison = explain) -> list[str]:
        """One line for each difference that matters to labels: this description is stored, `other` given."""
        return [
            *compare(self.fingerprint, other.fingerprint),
            *explain_list("classes", self.classes, other.classes),
            *explain_list("category_ids", self.category_ids, other.category_ids),
            *explain_list(
                "image_ids", np.asarray(self.image_ids).tolist(), np.asarray(other.image_ids).tolist()
            ),
        ]


@dataclass(frozen=True)
class Generation:
    """A generation on disk. Cheap to create and pickle; its state is read from the disk on each call."""

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
        """Its description.

        Raises:
            CacheError: if it does not exist, or was written by a newer version.
            DamagedError: if its description is damaged.
        """
        try:
            with reading(self.path):
                body = sealed.read(self.path / SPEC, self._remedy)
                ids = (self.path / IMAGE_IDS).read_bytes()
        except FileNotFoundError as error:
            raise self._gone(error) from None
        refuse_newer(self.path, body)
        with sealed.understood(self.path / SPEC, self._remedy):
            return self._described(body, ids)

    def _described(self, body: Mapping[str, Any], ids: bytes) -> GenerationSpec:
        if zlib.crc32(ids) != body["image_ids_crc32"]:
            problem = f"checksum differs from the one in {SPEC}"
            raise DamagedError(self.path / IMAGE_IDS, problem, remedy=self._remedy)
        try:
            image_ids = np.load(io.BytesIO(ids), allow_pickle=False)
        except ValueError as error:  # pickled objects, which could run code
            raise DamagedError(self.path / IMAGE_IDS, str(error), remedy=self._remedy) from error
        return GenerationSpec(
            image_ids=image_ids,
            classes=body["classes"],
            category_ids=body["category_ids"],
            num_shards=body["num_shards"],
            fingerprint=body["fingerprint"],
        )

    @property
    def image_ids(self) -> NDArray[np.int64]:
        """The images to label, sorted int64."""
        return np.asarray(self.spec.image_ids)

    @cached_property
    def file_names(self) -> dict[int, str]:
        """The images' file names by id; empty if they are not known.

        Raises:
            DamagedError: if they are damaged.
        """
        try:
            body = sealed.read(self.path / FILE_NAMES, self._remedy)
        except FileNotFoundError:
            return {}
        with sealed.understood(self.path / FILE_NAMES, self._remedy):
            return dict(zip(self.image_ids.tolist(), map(str, body["file_names"]), strict=True))

    @property
    def shards(self) -> list[ShardSpec]:
        """All shards, in order."""
        count = self.spec.num_shards
        return [ShardSpec(index + 1, count) for index in range(count)]

    def part_paths(self) -> list[Path]:
        """The folders of all parts, intact or damaged, by name.

        Raises:
            CacheError: if they cannot be listed.
            DamagedError: if the folder around them is missing.
        """
        try:
            with reading(self.path / PARTS):
                paths = storage(self.path).complete_folders(self.path / PARTS, MANIFEST)
        except FileNotFoundError as error:
            raise self._gone(error) from None
        return sorted(path for path in paths if not path.name.startswith(TEMPORARY))

    def parts(self) -> list[Part]:
        """All parts, opened.

        Raises:
            DamagedError: at the first part whose manifest or file sizes are wrong.
        """
        return list(storage(self.path).each(Part, self.part_paths()))

    def next_part_path(self, prefix: str) -> Path:
        """The next unused folder for a part with this prefix, e.g. `part-0003-`."""
        names = [path.name for path in self.part_paths() if path.name.startswith(prefix)]
        number = storage(self.path).next_number([int(name.removeprefix(prefix)) for name in names])
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
        """`published_at`, `quality` and `statistics`; None before publication."""
        try:
            return sealed.read(self.path / PUBLISHED)
        except FileNotFoundError:
            return None

    def pin(self) -> FileLock | Unlocked:
        """Prevent its removal and repair until the lock is released or this process ends.

        Raises:
            CacheError: if it was removed, is being repaired, or cannot be read.
        """
        try:
            with reading(self.path):
                lock = storage(self.path).lock(self.path / LOCK, exclusive=False)
                if (self.path / SPEC).exists():
                    return lock
            lock.release()
        except FileNotFoundError:
            pass
        except LockedError as error:
            raise LockedError(f"{self.path} is being repaired or removed: {error}. Try again later") from None
        raise CacheError(f"{self.path} does not exist (any more). `s4m cache info {self.root}` lists all")

    def leftovers(self) -> list[Path]:
        """Temporary folders in `parts` and files beside it, of running or killed writers."""
        return [
            path for folder in (self.path, self.path / PARTS) for path in sorted(folder.glob(f"{TEMPORARY}*"))
        ]

    def lock_exclusively(self) -> FileLock:
        """Exclude all readers and writers until the lock is released.

        Raises:
            LockedError: if a process uses the generation, or none can be excluded.
        """
        if is_remote(self.path):
            raise LockedError(
                f"{self.path}: in an object store nobody can tell whether a process uses it. Copy the cache "
                "to a file system and repair it there; remove what is not needed with the store's own tools"
            )
        try:
            return FileLock(self.path / LOCK, exclusive=True)
        except LockedError:
            raise LockedError(
                f"{self.path} is in use by a training or a refine. Wait until it ends, then run again"
            ) from None

    def refuse_incomplete(self) -> None:
        """Refuse the generation if images have no labels.

        Raises:
            CacheError: naming the incomplete shards and the commands that complete them.
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
            f"{self.path} is incomplete: {len(missing)} of {of} shards are not finished. "
            f"{lacks}. Run these commands; the last one publishes the generation (if not, run "
            f"`s4m cache publish {self.root} {number}`):\n{commands}"
        )

    @property
    def _remedy(self) -> str:
        """What to do about damage that cannot be repaired."""
        return (
            f"Without it nothing in {self.path} can be used or repaired. Remove that folder and, unless a "
            f"later generation is current, run `s4m refine CONFIG --generation {self.number}`"
        )

    def _gone(self, error: FileNotFoundError) -> CacheError:
        if storage(self.path).is_complete(self.path, SPEC):
            return DamagedError(Path(error.filename), "missing", remedy=self._remedy)
        return CacheError(f"{self.path} does not exist. `s4m cache info {self.root}` lists all generations")


def create(generation: Generation, spec: GenerationSpec, file_names: Mapping[int, str]) -> None:
    """Write an empty generation atomically.

    Args:
        file_names: of all images, or empty.

    Raises:
        FileExistsError: if another process has begun it.
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
    with storage(generation.path).new_folder(generation.path, SPEC) as folder:
        (folder / IMAGE_IDS).write_bytes(ids.getvalue())
        (folder / SPEC).write_bytes(sealed.dump(body))
        if file_names:
            names = [file_names[id_] for id_ in np.asarray(spec.image_ids).tolist()]
            (folder / FILE_NAMES).write_bytes(sealed.dump({"file_names": names}))
        (folder / LOCK).touch()
        (folder / PARTS).mkdir()
