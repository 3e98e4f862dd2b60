"""Check every byte of a generation, and remove damaged labels so that refine makes them again."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from s4m_cache import sealed
from s4m_cache.atomic import remove_folder, sync
from s4m_cache.errors import DamagedError, disk_error
from s4m_cache.generation import PUBLISHED, Generation
from s4m_cache.generations import CURRENT, current_number, generations, publish
from s4m_cache.parts import Part, write_part
from s4m_cache.records import ImageLabels
from s4m_cache.schema import BIT_FILES, BITS


@dataclass(frozen=True)
class PartCheck:
    """Result for one part: its damaged files, and the ids of the images that are intact."""

    path: Path
    damages: list[DamagedError]
    intact_ids: set[int]


@dataclass(frozen=True)
class Verification:
    """Result for a generation.

    Attributes:
        damages: one for each damaged file, with the affected images as far as they are known.
        parts: the result for each part.
        damaged_ids: int64, sorted: images whose labels are damaged and stored nowhere else.
        absent_ids: int64, sorted: expected images that no readable manifest lists. Before publication they
            are not labeled yet; afterwards their part was lost.
        intact_ids: int64, sorted: images with intact labels.
        published: whether the generation was published, so that it should be complete.
    """

    damages: list[DamagedError]
    parts: list[PartCheck]
    damaged_ids: NDArray[np.int64]
    absent_ids: NDArray[np.int64]
    intact_ids: NDArray[np.int64]
    published: bool

    @property
    def lost_ids(self) -> NDArray[np.int64]:
        """Images whose labels were stored and are damaged or absent now, sorted int64."""
        return np.union1d(self.damaged_ids, self.absent_ids) if self.published else self.damaged_ids

    @property
    def sound(self) -> bool:
        """Whether nothing is damaged and, once published, nothing absent."""
        return not self.damages and not self.lost_ids.size


@dataclass(frozen=True)
class Repair:
    """Result of a repair.

    Attributes:
        removed_ids: int64, sorted: images that have no labels any more; refine labels them again.
        num_rescued: intact images that were moved from damaged parts into new ones.
        num_parts: damaged parts removed.
    """

    removed_ids: NDArray[np.int64]
    num_rescued: int
    num_parts: int


def verify(generation: Generation) -> Verification:
    """Compare every byte with its checksum.

    Raises:
        CacheError: if the generation does not exist.
        DamagedError: if its description is damaged, so that nothing can be checked.
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
    """Check one part. Where masks are damaged, only the images whose bytes are affected are named."""
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
    """Remove damaged labels image by image and keep the others.

    A published generation that loses images is unpublished, so that no training reads it; refine labels these
    images again and publishes it. The intact images of a damaged part are written to a new part before the
    damaged one is removed, so a repair may be killed and repeated. Damaged notes that refine keeps beside the
    parts are removed; refine writes them again if needed.

    Raises:
        LockedError: if a training or a refine uses the generation.
        CacheError: if writing fails.
        DamagedError: if the description is damaged.
    """
    with generation.lock_exclusively():
        found = verify(generation)
        damaged = [check for check in found.parts if check.damages]
        try:
            to_remove = {damage.path for damage in _file_damages(generation)}
            if found.lost_ids.size:
                to_remove.add(generation.path / PUBLISHED)
            for path in to_remove:
                path.unlink(missing_ok=True)
            sync(generation.path)
            num_rescued = _replace_damaged(generation, found.parts)
        except OSError as error:
            files = [file for check in damaged for file in check.path.rglob("*")]
            needed = sum(file.stat().st_size for file in files)
            raise disk_error(generation.path, needed, error) from error
    return Repair(found.lost_ids, num_rescued, len(damaged))


def restore_current(root: Path) -> Generation | None:
    """If `CURRENT.json` is damaged, set it to the newest published generation and return that."""
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
    """Damage of the sealed files beside the parts: the publication and the notes of refine."""
    damages = []
    for path in sorted(generation.path.glob("*.json")):
        try:
            sealed.read(path)
        except DamagedError as damage:
            damages.append(damage)
    return damages


def _narrowed(part: Part, name: str, damage: DamagedError) -> DamagedError:
    """For a file of packed masks, the same error with only those images that cannot be decoded."""
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
    """Move each damaged part's intact images to a new part and remove it; returns the number of images."""
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
