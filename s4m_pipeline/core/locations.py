"""Paths of this machine, and addresses of object stores that are used like them."""

import errno
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from s4m_pipeline.core.errors import UserError


def location(text: str, **options: Any) -> Path:
    """A path, or for an address such as `s3://bucket/folder` an object with the methods of one.

    Args:
        text: path or address.
        options: of an address, for the file system of fsspec.

    Raises:
        UserError: if the packages that read addresses are not installed.
    """
    if "://" not in text:
        return Path(text)
    try:
        from upath import UPath

        place = UPath(text, **options)
        _ = place.fs
    except (ImportError, ValueError) as error:
        raise UserError(
            f'{text}: cannot be read ({error}). For s3:// install pip install "s4m-pipeline[s3]"; for other '
            "stores universal-pathlib, and the package that fsspec names for it."
        ) from error
    return cast(Path, place)


def cache_location(text: str) -> Path:
    """The place of a cache, whose content is looked up each time because other processes change it.

    Raises:
        UserError: as `location`.
    """
    return location(text, use_listings_cache=False)


def list_folder(path: Path) -> None:
    """List a folder of a store once, so that its files are then found without a request for each."""
    store: Any = path
    with suppress(FileNotFoundError):
        store.fs.ls(store.path)


def read_remote(path: Path) -> bytes:
    """The content of a file of a store, in whatever process.

    Raises:
        FileNotFoundError: if it does not exist.
        OSError: ENOTCONN, as for a mount that is gone, if the store cannot be reached or refuses.
    """
    try:
        return location(str(path)).read_bytes()  # a new object: connections do not survive a fork
    except FileNotFoundError:
        raise
    except Exception as error:  # each store has exceptions of its own
        raise OSError(errno.ENOTCONN, f"the object store fails ({error})", str(path)) from error


def remote_hash(path: Path) -> str:
    """What the store gives as the hash of a file's content (its ETag), without reading it."""
    store: Any = path
    return f"etag:{store.fs.info(store.path).get('ETag', '')}"
