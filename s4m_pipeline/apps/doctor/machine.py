"""Checks of the machine: disk, shared memory, open files, and the file system of the results."""

import resource
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from s4m_cache.atomic import write_bytes
from s4m_cache.errors import CacheError, LockedError
from s4m_cache.locks import FileLock
from s4m_pipeline.apps.doctor.finding import Finding, pasted

GB = 10**9
SHARED_MEMORY = Path("/dev/shm")
LEAST_DISK_BYTES = 2 * GB
"""Minimum for any experiment: checkpoints and logs of the demo's network, with a margin."""
LEAST_SHARED_BYTES = GB
LEAST_OPEN_FILES = 1024


def existing_ancestor(folder: Path) -> Path:
    """The folder itself, or the nearest one above it that exists."""
    folder = folder.absolute()
    return next(place for place in (folder, *folder.parents) if place.is_dir())


def check_disk(folder: Path, needed_bytes: int | None) -> Iterator[Finding]:
    """Free disk space for results.

    Args:
        needed_bytes: what the experiment will write; None: unknown, the minimum is required.
    """
    place = existing_ancestor(folder)
    free = shutil.disk_usage(place).free
    needed = max(needed_bytes or 0, LEAST_DISK_BYTES)
    about = f"{free / GB:.1f} GB free for {folder}"
    wanted = f"about {needed / GB:.1f} GB" + (" for checkpoints and labels" if needed_bytes else " at least")
    if free < needed:
        text = f"{about}, {wanted} needed"
        yield Finding(
            "disk", "fix", text, f"du -sh {pasted(folder)}/* | sort -h  # or --work-dir on a different disk"
        )
    elif free < 2 * needed:
        yield Finding(
            "disk",
            "warn",
            f"{about}, {wanted} needed: little margin",
            f"du -sh {pasted(folder)}/* | sort -h",
        )
    else:
        yield Finding("disk", "ok", f"{about}, {wanted} needed")


def check_shared_memory(needed_bytes: int | None) -> Iterator[Finding]:
    """Shared memory for the batches of loader processes.

    Args:
        needed_bytes: of all batches in flight; None: unknown.
    """
    if not SHARED_MEMORY.is_dir():
        yield Finding("shared memory", "ok", f"no {SHARED_MEMORY} on this system")
        return
    free = shutil.disk_usage(SHARED_MEMORY).free
    needed = LEAST_SHARED_BYTES if needed_bytes is None else needed_bytes
    text = f"{free / GB:.2f} GB free in {SHARED_MEMORY}"
    if free >= needed:
        yield Finding("shared memory", "ok", text)
        return
    text += f", about {needed / GB:.2f} GB needed by loader processes, which would fail with a bus error"
    command = f"docker run --shm-size={max(2 * needed // GB, 2)}g ...  # or --set teacher.workers=0"
    yield Finding("shared memory", "fix" if needed_bytes else "warn", text, command)


def check_open_files() -> Iterator[Finding]:
    """The limit of open files: tensors of loader processes and parts of the cache each take some."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= LEAST_OPEN_FILES:
        yield Finding("open files", "ok", f"limit {soft}")
        return
    raised = LEAST_OPEN_FILES if hard == resource.RLIM_INFINITY or hard >= LEAST_OPEN_FILES else hard
    text = f"limit {soft}, at least {LEAST_OPEN_FILES} expected"
    yield Finding("open files", "fix" if soft < 256 else "warn", text, f"ulimit -n {raised}")


def check_file_system(folder: Path) -> Iterator[Finding]:
    """Write, sync, rename and lock files beside the results, as the cache does; no file is left."""
    place = existing_ancestor(folder)
    name = "work folder"
    elsewhere = "s4m COMMAND CONFIG --work-dir FOLDER  # on a different disk"
    try:
        with tempfile.TemporaryDirectory(prefix=".s4m-doctor-", dir=place) as temporary:
            write_bytes(Path(temporary, "file"), b"new")
            Path(temporary, "folder").mkdir()
            Path(temporary, "folder").rename(Path(temporary, "renamed"))
            if not _locks_exclude(Path(temporary, "lock")):
                text = f"{place}: two processes can hold the same lock, so shards could overwrite each other"
                yield Finding(
                    name,
                    "fix",
                    text,
                    f"mount -o remount,flock {pasted(_mount_of(place))}  # Lustre; or {elsewhere}",
                )
                return
    except CacheError as error:
        yield Finding(name, "fix", str(error), elsewhere)
    except OSError as error:
        yield Finding(
            name,
            "fix",
            f"{place} cannot be written to ({error.strerror})",
            f"ls -ld {pasted(place)}; {elsewhere}",
        )
    else:
        yield Finding(name, "ok", f"{place}: files are synced, renamed and locked")


def _locks_exclude(path: Path) -> bool:
    with FileLock(path, exclusive=True):
        try:
            FileLock(path, exclusive=True).release()
        except LockedError:
            return True
    return False


def _mount_of(place: Path) -> Path:
    return next(above for above in (place, *place.parents) if above.is_mount())
