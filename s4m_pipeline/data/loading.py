"""How errors met while an image is loaded reach the user, from any process."""

from collections.abc import Iterator
from contextlib import contextmanager

from s4m_cache.errors import CacheError
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.core.explain import explain


class LoadingError(UserError):
    """An error met while an image was loaded; one from a loader's process has the same message.

    torch builds the error again in the main process, from a traceback that ends with the message.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.rpartition(f"{LoadingError.__name__}: ")[2].rstrip("\n"))


@contextmanager
def loading() -> Iterator[None]:
    """Context in which an image is loaded.

    Raises:
        LoadingError: if it, or its labels, cannot be read.
    """
    try:
        yield
    except (UserError, CacheError) as error:
        raise LoadingError(str(error)) from error
    except OSError as error:
        message = explain(error)
        if message is None:
            raise
        raise LoadingError(message) from error
