"""Faults of machine and config that other packages report in words of their own, put into ours."""

import errno
import traceback
from pathlib import Path

from s4m_cache.errors import MOUNT_FAULTS, free_space

_OF_THE_DISK = {
    errno.EACCES,
    errno.EDQUOT,
    errno.EEXIST,
    errno.EFBIG,
    errno.EIO,
    errno.ENOSPC,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
    *MOUNT_FAULTS,
}
_OF_STORES = {"aiobotocore", "aiohttp", "azure", "botocore", "gcsfs", "google"}
"""Packages whose exceptions come from object stores."""
_CHECK_STORE = (
    "What was saved is intact: check network, address and credentials (for a store compatible with S3 also "
    "AWS_ENDPOINT_URL), and repeat the command."
)
_BUILDER = str(Path("mmengine", "registry", "build_functions.py"))


def explain(error: Exception) -> str | None:
    """What a user reads instead of a traceback; None for an error that no user can fix."""
    if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
        return _disk(error)
    if type(error).__module__.partition(".")[0] in _OF_STORES:
        return f"An object store cannot be read: {error}.\n{_CHECK_STORE}"
    if type(error).__name__ == "OutOfMemoryError":  # torch's, without importing it
        return (
            f"Out of device memory: {str(error).splitlines()[0]}\n"
            "What was saved is intact. Take smaller batches: --set teacher.batch_size=N, or "
            "student.batch_size=N and student.unlabeled_batch_size=N, with a new --work-dir or --overwrite."
        )
    if isinstance(error, RuntimeError) and "DataLoader worker (pid" in str(error):
        return (
            f"A process that reads images was ended from outside: {str(error).splitlines()[0]}\n"
            "The usual reason is lack of memory: see `s4m doctor` (containers: --shm-size). What was saved "
            "is intact: repeat the command with fewer of them (--set refine.workers=N, teacher.workers=N or "
            "student.workers=N; 0: the main process reads). `s4m data check` names unreadable images."
        )
    if any(frame.filename.endswith(_BUILDER) for frame in traceback.extract_tb(error.__traceback__)):
        reason = str(error.args[0] if error.args else "").partition(". Please check whether")[0]
        return (
            f"The config describes something that cannot be built: {type(error).__name__}: {reason}\n"
            "Expected names and keywords of mmdet's, mmengine's or our classes in model, optim_wrapper, "
            "param_scheduler, custom_hooks and the pipelines. Fix the config or the --set, and repeat the "
            "command."
        )
    return None


def _disk(error: OSError) -> str:
    if "://" in str(error.filename):
        return f"Cannot read {error.filename}: {error.strerror}.\n{_CHECK_STORE}"
    path = Path(error.filename) if isinstance(error.filename, str) else Path()
    what = error.filename or "a file of this run (such as a log)"
    return (
        f"Cannot use {what}: {error.strerror}. {free_space(path)}.\n"
        "Expected a folder that can be read and written, with room. What was saved is intact: "
        "fix disk, mount, quota or permissions, or give another --work-dir, and repeat the command."
    )
