"""The one exception that the command line turns into a message instead of a traceback."""


class UserError(Exception):
    """A fault that the user can fix: bad input, a missing file, a contradiction between settings.

    The message says what is wrong, where, what was expected and what to do next.
    """
