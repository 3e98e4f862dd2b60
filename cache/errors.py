"""The one exception of this package that a user can mend."""


class CacheError(Exception):
    """A fault of a cache on disk or of its use.

    The message says what is wrong, where, what was expected and what to do next.
    """
