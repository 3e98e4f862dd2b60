"""All generations of a cache: begin, publish, current, retire.

begin -> the shards write parts -> publish -> readers take it as current, pinned -> retire
"""

import re
import shutil
from collections.abc import Container, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cache import embeddings, sealed
from cache.atomic import TEMPORARY, remove_folder
from cache.errors import CacheError, LockedError, disk_error, reading
from cache.fingerprint import Fingerprint
from cache.generation import LOCK, PUBLISHED, Generation, GenerationSpec, create
from cache.locks import FileLock
from cache.schema import FORMAT, VERSION

CURRENT = "CURRENT.json"


def generations(root: Path) -> list[Generation]:
    """All generations of a cache, by number."""
    with reading(root):
        names = [path.name for path in root.iterdir()] if root.is_dir() else []
    matches = (re.fullmatch(r"gen-(\d{4,})", name) for name in names)
    return sorted((Generation(root, int(match[1])) for match in matches if match), key=lambda g: g.number)


def made_with(root: Path, fingerprint: Fingerprint) -> Generation | None:
    """The newest generation of this fingerprint that is current or may still become so.

    Raises:
        DamagedError: if the description of a generation that has to be asked is damaged.
    """
    newest = current_number(root)
    later = [generation for generation in generations(root) if generation.number >= newest]
    return next((found for found in reversed(later) if found.spec.fingerprint == fingerprint), None)


def begin(root: Path, spec: GenerationSpec, number: int | None = None) -> Generation:
    """Begin a generation, or join it: every shard calls this, in any order, and the first one creates it.

    One that is there keeps its number of shards, whatever is given: labels do not depend on it.

    Args:
        root: the cache's folder, created if need be.
        spec: what it is to hold.
        number: which one; by default the newest there is, or 1.

    Raises:
        CacheError: if that generation was begun with anything else (all differences are listed), or was
        retired.
    """
    known = generations(root)
    number = number or (known[-1].number if known else 1)
    generation = Generation(root, number)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / LOCK, exclusive=True, wait=True):
            if not generation.path.exists():
                _refuse_past(generation)
                create(generation, spec)
    except OSError as error:
        raise disk_error(generation.path, 8 * len(spec.image_ids) + 65_536, error) from error
    if differences := generation.spec.differences(spec):
        lines = "\n".join(f"  {line}" for line in differences)
        raise CacheError(
            f"{generation.path} was begun with other settings, and labels of two kinds must not "
            f"mix:\n{lines}\nGive the stored values to go on with it, or start another generation beside it: "
            f"--generation {max(number, known[-1].number if known else 1) + 1}"
        )
    return generation


def current(root: Path) -> Generation:
    """The generation that readers take.

    Raises:
        CacheError: if none was published, or the published one has lost images to a repair.
    """
    try:
        generation = Generation(root, sealed.read(root / CURRENT)["generation"])
    except FileNotFoundError:
        raise CacheError(
            f"{root}: no generation is published. Generations: {_names(root)}. Run `s4m refine` to the end; "
            f"`s4m cache info {root}` says what is missing"
        ) from None
    if generation.published() is None:
        generation.refuse_incomplete()
        raise CacheError(
            f"{generation.path} was repaired and is complete again: run `s4m cache publish {root} "
            f"--generation {generation.number}`"
        )
    return generation


def publish(
    generation: Generation,
    *,
    quality: Mapping[str, Any] | None = None,
    statistics: Mapping[str, Any] | None = None,
) -> None:
    """Make a complete generation the current one. Readers of the one before keep it until they look again.

    Of several shards that finish together each may call this; the first one's figures are kept.

    Args:
        generation: all of whose images must have labels.
        quality: measured quality figures, JSON values, kept for reports.
        statistics: any other figures, likewise.

    Raises:
        CacheError: if images are missing, a damaged part is found, or a later generation is current already.
    """
    generation.refuse_incomplete()
    body = {
        "format": FORMAT,
        "version": VERSION,
        "published_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "quality": dict(quality or {}),
        "statistics": dict(statistics or {}),
    }
    try:
        with FileLock(generation.root / LOCK, exclusive=True, wait=True):
            _refuse_past(generation)
            if generation.published() is None:
                sealed.write(generation.path / PUBLISHED, body)
            sealed.write(generation.root / CURRENT, {"generation": generation.number})
    except OSError as error:
        raise disk_error(generation.root, 65_536, error) from error


def retire(generation: Generation) -> None:
    """Remove a generation that nobody reads or writes.

    Raises:
        LockedError: if it is pinned.
        CacheError: if it is the current one.
    """
    with FileLock(generation.root / LOCK, exclusive=True, wait=True):
        if generation.number == current_number(generation.root):
            raise CacheError(f"{generation.path} is the current generation: publish another one first")
        with generation.in_use_by_nobody():
            remove_folder(generation.path)


def collect_garbage(root: Path, keep: int = 1, refused: Container[int] = ()) -> list[Path]:
    """Remove what is no longer needed and return what was removed.

    That is: generations older than the current one but for the last `keep - 1` of them, those that were
    refused, embeddings that no generation left was made with, and leftovers of killed processes. What is
    current or pinned stays. Generations that are still being written are never touched.

    Args:
        root: the cache's folder.
        keep: generations kept, the current one included.
        refused: numbers of generations that nobody will publish.
    """
    removed = []
    newest = current_number(root)
    known = [generation for generation in generations(root) if generation.number != newest]
    past = [g for g in known if g.number < newest and g.number not in refused]
    doomed = past[: max(len(past) - max(keep - 1, 0), 0)] + [g for g in known if g.number in refused]
    for generation in doomed:
        try:
            retire(generation)
        except LockedError:
            continue
        removed.append(generation.path)
    removed += _remove_embeddings_without_use(root)
    with FileLock(root / LOCK, exclusive=True, wait=True):
        # Whoever makes temporary folders here holds the lock, so these have no owner.
        removed += [_remove_leftover(path) for path in sorted(root.glob(f"{TEMPORARY}*"))]
        for generation in generations(root):
            try:
                with generation.in_use_by_nobody():
                    removed += [_remove_leftover(path) for path in generation.leftovers()]
            except LockedError:
                continue
    return removed


def current_number(root: Path) -> int:
    """The published generation's number; 0 before the first."""
    try:
        return int(sealed.read(root / CURRENT)["generation"])
    except FileNotFoundError:
        return 0


def _refuse_past(generation: Generation) -> None:
    newest = current_number(generation.root)
    if generation.number < newest:
        raise CacheError(
            f"{generation.path}: generation {newest} is current already, and readers never go back. "
            f"Start a new one: --generation {newest + 1}"
        )


def _remove_embeddings_without_use(root: Path) -> list[Path]:
    """Remove those of no generation; none where damage hides what a generation was made with."""
    with FileLock(root / LOCK, exclusive=True, wait=True):
        try:
            made = [generation.spec.fingerprint for generation in generations(root)]
            stores = embeddings.stores_without_use(root, made)
        except CacheError:
            return []
        for store in stores:
            remove_folder(store)
    return stores


def _names(root: Path) -> str:
    return ", ".join(generation.name for generation in generations(root)) or "none"


def _remove_leftover(path: Path) -> Path:
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    return path
