"""The largest and the thinnest image that are accepted, and the size of labels.

Imports nothing heavy: `--help` shows them.
"""

import os
from collections.abc import Mapping

from s4m_cache.errors import CacheError

MAX_PIXELS_VARIABLE = "S4M_MAX_PIXELS"
RAISE_LIMIT = f"raise it with `s4m data ... --max-pixels`, or everywhere with {MAX_PIXELS_VARIABLE}"


def max_pixels(environment: Mapping[str, str]) -> int:
    """The limit on an image's width x height: 100 megapixels, which decode to 300 MB, unless set otherwise.

    Raises:
        CacheError: if it is set to anything but a number of pixels.
    """
    text = environment.get(MAX_PIXELS_VARIABLE, "100000000")
    if not text.isdecimal() or int(text) == 0:
        raise CacheError(
            f"environment variable {MAX_PIXELS_VARIABLE}={text}: expected the largest width x height of an "
            "image in pixels as a whole number, such as 250000000. Correct it or unset it."
        )
    return int(text)


MAX_PIXELS = max_pixels(os.environ)
"""Default limit; processes that read images inherit it with the environment."""
LABEL_BYTES = 15_000
"""Of one image's labels in the cache: two masks for each of about twenty instances (docs/cache.md)."""
MAX_RATIO = 100
"""Longer to shorter side; thinner images lose their shorter side when they are resized for a network."""


def is_thin(width: int, height: int) -> bool:
    """Whether an image is thinner than accepted."""
    return max(width, height) > MAX_RATIO * min(width, height)
