"""How faults met while an image is loaded reach the user, from whatever process."""

from collections.abc import Iterator
from contextlib import contextmanager

from cache.errors import CacheError
from s4m_pipeline.errors import UserError
from s4m_pipeline.explain import explain


class LoadingError(UserError):
    """A fault met while an image was loaded; from a loader's process it comes as the message alone.

    torch makes the error anew in the main process, from a text of which the message is the last part.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.rpartition(f"{LoadingError.__name__}: ")[2].rstrip("\n"))


@contextmanager
def loading() -> Iterator[None]:
    """Loads an image in this context.

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
