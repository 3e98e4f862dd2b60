"""Check every byte of a generation, and remove what is damaged so that refine can redo just that."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cache import sealed
from cache.atomic import remove_folder, sync
from cache.errors import DamagedError, disk_error
from cache.generation import PUBLISHED, Generation
from cache.generations import CURRENT, current_number, generations, publish
from cache.parts import Part, write_part
from cache.records import ImageLabels
from cache.schema import BIT_FILES, BITS


@dataclass(frozen=True)
class PartCheck:
    """What was found in one part: its damages, and the ids of the images that are whole."""

    path: Path
    damages: list[DamagedError]
    intact_ids: set[int]


@dataclass(frozen=True)
class Verification:
    """What was found in a generation.

    Attributes:
        damages: one for each damaged file, with the images it concerns as far as they are known.
        parts: what was found in each part.
        damaged_ids: int64, sorted: images whose labels are damaged and stored nowhere else.
        absent_ids: int64, sorted: expected images that no readable manifest lists. Before publication that is
            ordinary; afterwards their part was lost.
        intact_ids: int64, sorted: images with whole labels.
        published: whether it is meant to be complete.
    """

    damages: list[DamagedError]
    parts: list[PartCheck]
    damaged_ids: NDArray[np.int64]
    absent_ids: NDArray[np.int64]
    intact_ids: NDArray[np.int64]
    published: bool

    @property
    def lost_ids(self) -> NDArray[np.int64]:
        """Images whose labels were there and are not whole now, sorted int64."""
        return np.union1d(self.damaged_ids, self.absent_ids) if self.published else self.damaged_ids

    @property
    def sound(self) -> bool:
        """Whether nothing is damaged and, once published, nothing absent."""
        return not self.damages and not self.lost_ids.size


@dataclass(frozen=True)
class Repair:
    """What a repair did.

    Attributes:
        removed_ids: int64, sorted: images that have no labels any more; refine is to redo them.
        num_rescued: intact images that were moved from damaged parts into new ones.
        num_parts: damaged parts removed.
    """

    removed_ids: NDArray[np.int64]
    num_rescued: int
    num_parts: int


def verify(generation: Generation) -> Verification:
    """Compare every byte with its checksum.

    Raises:
        CacheError: if the generation is not there.
        DamagedError: if its description is damaged: then nothing can be told.
    """
    expected = generation.image_ids
    published = (generation.path / PUBLISHED).exists()
    checks = [check_part(path) for path in generation.part_paths()]
    damages = _file_damages(generation) + [damage for check in checks for damage in check.damages]
    intact = set[int]().union(*(check.intact_ids for check in checks))
    damaged = {image_id for damage in damages for image_id in damage.image_ids} - intact
    return Verification(
        damages=damages,
        parts=checks,
        damaged_ids=_sorted_ids(damaged),
        absent_ids=np.setdiff1d(expected, _sorted_ids(intact | damaged)),
        intact_ids=_sorted_ids(intact),
        published=published,
    )


def check_part(path: Path) -> PartCheck:
    """Check one part. Of damaged masks, only the images whose own bytes are hit are named."""
    try:
        part = Part(path)
    except DamagedError as damage:
        return PartCheck(path, [damage], set())
    damages = []
    for name in part.files:
        try:
            part.check_file(name)
        except DamagedError as damage:
            damages.append(_narrowed(part, name, damage))
    bad = {image_id for damage in damages for image_id in damage.image_ids}
    return PartCheck(path, damages, set(part.image_ids.tolist()) - bad)


def repair(generation: Generation) -> Repair:
    """Remove what is damaged, image by image, and leave the rest.

    A generation that thereby lacks images is no longer published, so that no training takes it; refine finds
    just these images pending and publishes it again. Each damaged part's intact images are first written to a
    new part,
    then the damaged one is removed: after a kill in between, the next repair finishes. Of damaged notes that
    refine keeps beside the parts nothing is left; it makes them again if they are still needed.

    Raises:
        LockedError: if a training or a refine uses the generation.
        CacheError: if the disk refuses.
        DamagedError: if the description is damaged.
    """
    with generation.in_use_by_nobody():
        found = verify(generation)
        damaged = [check for check in found.parts if check.damages]
        try:
            spoilt = {damage.path for damage in _file_damages(generation)}
            if found.lost_ids.size:
                spoilt.add(generation.path / PUBLISHED)
            for path in spoilt:
                path.unlink(missing_ok=True)
            sync(generation.path)
            num_rescued = _replace_damaged(generation, found.parts)
        except OSError as error:
            files = [file for check in damaged for file in check.path.rglob("*")]
            needed = sum(file.stat().st_size for file in files)
            raise disk_error(generation.path, needed, error) from error
    return Repair(found.lost_ids, num_rescued, len(damaged))


def restore_current(root: Path) -> Generation | None:
    """If `CURRENT.json` is damaged, make it name the newest published generation, and return that."""
    try:
        current_number(root)
    except DamagedError:
        (root / CURRENT).unlink()
        for generation in reversed(generations(root)):
            if generation.published() is not None:
                publish(generation)
                return generation
    return None


def _file_damages(generation: Generation) -> list[DamagedError]:
    """Of the sealed files beside the parts: the publication, and what refine notes about its work."""
    damages = []
    for path in sorted(generation.path.glob("*.json")):
        try:
            sealed.read(path)
        except DamagedError as damage:
            damages.append(damage)
    return damages


def _narrowed(part: Part, name: str, damage: DamagedError) -> DamagedError:
    """For a file of packed masks, the same damage with only those images that cannot be decoded."""
    if name not in BIT_FILES.values():
        return damage
    hit = []
    for row, image_id in enumerate(part.image_ids.tolist()):
        try:
            part.read_bits(Path(name).parts[0], row, row + 1)
        except DamagedError:
            hit.append(image_id)
    return DamagedError(damage.path, damage.problem, hit)


def _replace_damaged(generation: Generation, checks: list[PartCheck]) -> int:
    """Put each damaged part's intact images in a new one and remove it; how many images there were."""
    safe = set[int]().union(*(check.intact_ids for check in checks if not check.damages))
    num_rescued = 0
    for check in checks:
        if not check.damages:
            continue
        if rescue := check.intact_ids - safe:
            prefix = check.path.name.rpartition("-")[0] + "-"
            write_part(generation.next_part_path(prefix), _read_images(check.path, rescue))
        remove_folder(check.path)
        safe |= rescue
        num_rescued += len(rescue)
    return num_rescued


def _read_images(path: Path, image_ids: set[int]) -> list[ImageLabels]:
    part, labels = Part(path), []
    for row, image_id in enumerate(part.image_ids.tolist()):
        if image_id in image_ids:
            bits = {name: part.read_bits(name, row, row + 1) for name in BITS}
            labels += part.labels(row, row + 1, bits)
    return labels


def _sorted_ids(ids: set[int]) -> NDArray[np.int64]:
    return np.array(sorted(ids), np.int64)
