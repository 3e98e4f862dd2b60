"""What commands that write files for other programs say about their output."""

from pathlib import Path

from s4m_pipeline.core.errors import UserError


def refuse_existing(path: Path) -> None:
    """Refuse a file that exists, or a folder with content.

    Raises:
        UserError: if it does.
    """
    if path.exists() and (path.is_file() or any(path.iterdir())):
        raise UserError(f"{path} exists already.\nRemove it, or choose a different path.")


def not_writable(path: Path, error: OSError) -> UserError:
    """The message for an output that cannot be written."""
    return UserError(
        f"{path} cannot be written: {error.strerror}.\nFree disk space, or choose a different path."
    )
