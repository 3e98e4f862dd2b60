"""Limits on what is accepted from a data set; light to import, so that the command line can show them."""

import os
from collections.abc import Mapping

from cache.errors import CacheError

MAX_PIXELS_VARIABLE = "S4M_MAX_PIXELS"
RAISE_LIMIT = f"`--max-pixels` of `s4m data` raises it, {MAX_PIXELS_VARIABLE} in the environment everywhere"


def max_pixels(environment: Mapping[str, str]) -> int:
    """The limit on an image's width x height: 100 megapixels, which decode to 300 MB, unless set otherwise.

    Raises:
        CacheError: if it is set to something that is no number of pixels.
    """
    text = environment.get(MAX_PIXELS_VARIABLE, "100000000")
    if not text.isdecimal() or int(text) == 0:
        raise CacheError(
            f"{MAX_PIXELS_VARIABLE}={text} in the environment: expected the largest width x height of an "
            "image as a whole number, 250000000 say. Set it so, or not at all."
        )
    return int(text)


MAX_PIXELS = max_pixels(os.environ)
"""Default limit; processes that read images inherit it with the environment."""
