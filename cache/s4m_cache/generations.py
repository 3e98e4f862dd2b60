"""All generations of a cache: begin, publish, current, retire.

begin -> shards write parts -> publish -> readers open and pin the current one -> retire
"""

import re
import shutil
from collections.abc import Container, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from s4m_cache import embeddings, sealed
from s4m_cache.atomic import TEMPORARY, discard_leftovers, remove_folder
from s4m_cache.errors import CacheError, LockedError, disk_error, reading
from s4m_cache.fingerprint import Comparison, Fingerprint, explain
from s4m_cache.generation import LOCK, PUBLISHED, SPEC, Generation, GenerationSpec, create
from s4m_cache.locks import FileLock
from s4m_cache.schema import FORMAT, VERSION
from s4m_cache.storage import ReplacedError, is_remote, storage

CURRENT = "CURRENT.json"


def generations(root: Path) -> list[Generation]:
    """All generations of a cache, by number."""
    with reading(root):
        names = [path.name for path in root.iterdir()] if root.is_dir() else []
    matches = (re.fullmatch(r"gen-(\d{4,})", name) for name in names)
    found = [Generation(root, int(match[1])) for match in matches if match]
    begun = [generation for generation in found if storage(root).is_complete(generation.path, SPEC)]
    return sorted(begun, key=lambda generation: generation.number)


def made_with(root: Path, fingerprint: Fingerprint, compare: Comparison = explain) -> Generation | None:
    """The newest generation with this fingerprint that is current or may still become so.

    Args:
        root: the cache's folder.
        fingerprint: what is compared with the stored ones.
        compare: tells in what fingerprints differ.

    Raises:
        DamagedError: if the description of such a generation is damaged.
    """
    newest = current_number(root)
    later = [generation for generation in generations(root) if generation.number >= newest]
    return next((it for it in reversed(later) if not compare(it.spec.fingerprint, fingerprint)), None)


def begin(
    root: Path,
    spec: GenerationSpec,
    number: int | None = None,
    compare: Comparison = explain,
    file_names: Mapping[int, str] | None = None,
) -> Generation:
    """Create a generation, or open the existing one: every shard calls this, in any order.

    An existing generation keeps its number of shards, on which labels do not depend.

    Args:
        root: the cache's folder, created if needed.
        spec: description of the generation.
        number: by default the newest, or 1.
        compare: tells in what fingerprints differ.
        file_names: of all images by id, kept with a new generation.

    Raises:
        CacheError: if the existing generation has a different description (all differences are listed), or
            a later one is current.
    """
    known = generations(root)
    number = number or (known[-1].number if known else 1)
    generation = Generation(root, number)
    place = storage(root)
    try:
        place.make_root(root)
        with place.lock(root / LOCK, exclusive=True, wait=True):
            if not place.is_complete(generation.path, SPEC):
                _refuse_past(generation)
                create(generation, spec, file_names or {})
    except FileExistsError as error:
        if not place.is_complete(generation.path, SPEC):
            raise CacheError(
                f"{generation.path}: {error.filename} was left by a command that was killed, with different "
                f"content. Remove this folder, or start a new generation: --generation {number + 1}"
            ) from error
    except OSError as error:
        raise disk_error(generation.path, 8 * len(spec.image_ids) + 65_536, error) from error
    if differences := generation.spec.differences(spec, compare):
        lines = "\n".join(f"  {line}" for line in differences)
        raise CacheError(
            f"{generation.path} was begun with different settings, and one generation must not mix "
            f"labels:\n{lines}\nUse the stored values to resume it, or start a new generation: "
            f"--generation {max(number, known[-1].number if known else 1) + 1}"
        )
    return generation


def current(root: Path) -> Generation:
    """The published generation that readers open.

    Raises:
        CacheError: if none is published, or a repair removed images of it.
    """
    try:
        number = _current_number(root)
    except FileNotFoundError:
        raise CacheError(
            f"{root}: no generation is published. Generations: {_names(root)}. Run `s4m refine` until it "
            f"publishes one; `s4m cache info {root}` shows what is missing"
        ) from None
    generation = Generation(root, number)
    if generation.published() is None:
        generation.refuse_incomplete()
        raise CacheError(
            f"{generation.path} was repaired and is complete again, but not published: run "
            f"`s4m cache publish {root} --generation {generation.number}`"
        )
    return generation


def publish(
    generation: Generation,
    *,
    quality: Mapping[str, Any] | None = None,
    statistics: Mapping[str, Any] | None = None,
    back: bool = False,
) -> None:
    """Make a complete generation the current one. Open readers keep the generation that they opened.

    Shards that finish together may all call this; the figures of the first call are kept.

    Args:
        generation: all its images must have labels.
        quality: measured quality, as JSON values, for reports.
        statistics: any other figures, as JSON values.
        back: return from a later generation to this one, as a user may ask.

    Raises:
        CacheError: if images are missing, a part is damaged, or a later generation is current.
    """
    generation.refuse_incomplete()
    body = {
        "format": FORMAT,
        "version": VERSION,
        "published_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "quality": dict(quality or {}),
        "statistics": dict(statistics or {}),
    }
    root, place = generation.root, storage(generation.root)
    try:
        with place.lock(root / LOCK, exclusive=True, wait=True):
            for path in (generation.path / PUBLISHED, root / CURRENT):
                discard_leftovers(path)
            version = place.version(root / CURRENT)
            if not back:
                _refuse_past(generation)
            if generation.published() is None:
                sealed.write(generation.path / PUBLISHED, body)
            sealed.write(root / CURRENT, {"generation": generation.number}, version)
    except ReplacedError:  # by a process that published at the same time
        publish(generation, quality=quality, statistics=statistics, back=back)
    except OSError as error:
        raise disk_error(root, 65_536, error) from error


def retire(generation: Generation) -> None:
    """Remove a generation.

    Raises:
        LockedError: if a process reads or writes it, or it is in an object store.
        CacheError: if it is the current one.
    """
    with FileLock(generation.root / LOCK, exclusive=True, wait=True):
        if generation.number == current_number(generation.root):
            raise CacheError(f"{generation.path} is the current generation: publish a different one first")
        with generation.lock_exclusively():
            remove_folder(generation.path)


def collect_garbage(
    root: Path, keep: int = 1, refused: Container[int] = (), *, dry_run: bool = False
) -> list[Path]:
    """Remove what is no longer needed and return the removed paths.

    That is: generations older than the current one except the last `keep - 1` of them, rejected ones,
    embeddings that no remaining generation was made with, and temporary files of killed processes. The
    current generation, those in use and those still being written are kept; in an object store, which cannot
    tell what is in use, everything.

    Args:
        root: the cache's folder.
        keep: generations to keep, the current one included.
        refused: numbers of the rejected generations.
        dry_run: only return the paths.
    """
    removed: list[Path] = []
    if is_remote(root):
        return removed
    newest = current_number(root)
    known = [generation for generation in generations(root) if generation.number != newest]
    past = [g for g in known if g.number < newest and g.number not in refused]
    old = past[: max(len(past) - max(keep - 1, 0), 0)]
    for generation in old + [g for g in known if g.number in refused]:
        try:
            if dry_run:
                generation.lock_exclusively().release()
            else:
                retire(generation)
        except LockedError:
            continue
        removed.append(generation.path)
    removed += _remove_unused_embeddings(root, removed, dry_run)
    with FileLock(root / LOCK, exclusive=True, wait=True):
        # A process that makes temporary folders here holds the lock, so the owners of these have ended.
        removed += _remove_leftovers(sorted(root.glob(f"{TEMPORARY}*")), dry_run)
        for generation in _all_but(root, removed):
            try:
                with generation.lock_exclusively():
                    removed += _remove_leftovers(generation.leftovers(), dry_run)
            except LockedError:
                continue
    return removed


def current_number(root: Path) -> int:
    """The published generation's number; 0 before the first."""
    try:
        return _current_number(root)
    except FileNotFoundError:
        return 0


def _current_number(root: Path) -> int:
    body = sealed.read(root / CURRENT)
    with sealed.understood(root / CURRENT):
        return int(body["generation"])


def _refuse_past(generation: Generation) -> None:
    newest = current_number(generation.root)
    if generation.number < newest:
        raise CacheError(
            f"{generation.path}: the later generation {newest} is current, and labels are not replaced by "
            f"earlier ones. Start a new one: --generation {newest + 1}; or return to an earlier one that is "
            f"complete: s4m cache publish {generation.root} --generation N"
        )


def _all_but(root: Path, removed: Sequence[Path]) -> list[Generation]:
    """The generations that are left, also if the others were not removed but only listed."""
    return [generation for generation in generations(root) if generation.path not in removed]


def _remove_unused_embeddings(root: Path, removed: Sequence[Path], dry_run: bool) -> list[Path]:
    """Remove the embeddings of no generation that is left; nothing if a fingerprint is damaged."""
    with FileLock(root / LOCK, exclusive=True, wait=True):
        try:
            fingerprints = [generation.spec.fingerprint for generation in _all_but(root, removed)]
            stores = embeddings.unused_stores(root, fingerprints)
        except CacheError:
            return []
        for store in [] if dry_run else stores:
            remove_folder(store)
    return stores


def _names(root: Path) -> str:
    return ", ".join(generation.name for generation in generations(root)) or "none"


def _remove_leftovers(paths: list[Path], dry_run: bool) -> list[Path]:
    for path in [] if dry_run else paths:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return paths
