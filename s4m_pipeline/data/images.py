"""Image files: the header is judged before anything is decoded, and every kind becomes RGB uint8 one way."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, TiffImagePlugin

from cache.errors import MOUNT_FAULTS
from cache.limits import MAX_PIXELS, RAISE_LIMIT
from s4m_pipeline.data.findings import Problem
from s4m_pipeline.errors import UserError

EXTENSIONS = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""File name endings (in small letters) that a folder of images is searched for."""

# An explicit list: Pillow also reads formats that run other programs, such as PostScript.
FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")

_EXIF_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_pillow_limit_lock = threading.Lock()


class ImageError(UserError):
    """An image file that cannot be used; `problem` and `detail` are for a report over many files."""

    def __init__(self, path: Path, problem: Problem, detail: str) -> None:
        super().__init__(f"{path}: {detail}. `s4m data check` lists all such files of a data set.")
        self.problem = problem
        self.detail = detail


@dataclass(frozen=True)
class ImageHeader:
    """Size in pixels of the upright image, and whether an EXIF rotation or flip makes it upright."""

    width: int
    height: int
    rotated: bool
    swapped: bool
    """The rotation exchanges width and height."""


def read_header(path: Path, max_pixels: int = MAX_PIXELS) -> ImageHeader:
    """Size of the image without decoding it.

    Raises:
        ImageError: missing, empty, not an image, or more than `max_pixels`.
        OSError: the whole mount is gone, which says nothing about the image.
    """
    with _opened(path, max_pixels) as image:
        return _header(image)


def read_rgb(path: Path, max_pixels: int = MAX_PIXELS) -> tuple[npt.NDArray[np.uint8], ImageHeader]:
    """Decode an image to upright RGB, uint8 (H, W, 3), and give its header.

    The one conversion of the project: the EXIF orientation is applied; alpha is dropped (the colours below it
    stay); grey is repeated; palettes and CMYK become RGB without a colour profile; of 16-bit values the high
    byte is taken; of several frames the first.

    Raises:
        ImageError: as `read_header`, truncated or corrupt pixels, or pixels without a range (float, 32 bit).
        OSError: as `read_header`.
    """
    with _opened(path, max_pixels) as image:
        header = _header(image)
        try:
            rgb = _to_rgb(image)
            transposition = _UPRIGHT.get(_orientation(image))  # of TIFF none is left: decoding applies it
            upright = rgb if transposition is None else rgb.transpose(transposition)
            return np.array(upright, dtype=np.uint8), header
        except Exception as error:  # decoders raise nearly anything on damaged bytes
            _raise_if_of_the_mount(path, error)
            raise ImageError(
                path, Problem.FILE_UNREADABLE, f"cannot be decoded ({_reason(error)})"
            ) from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F" or (image.mode == "I" and image.format == "TIFF"):  # I of PGM is 16 bit
        kind = "float" if image.mode == "F" else "32-bit or signed integer"
        raise ValueError(f"{kind} pixels have no defined range; save the image as 8 or 16 bit, unsigned")
    if image.mode.startswith("I"):
        high_byte = np.clip(np.asarray(image, dtype=np.int64), 0, 65535) >> 8
        return Image.fromarray(high_byte.astype(np.uint8)).convert("RGB")
    return image.convert("RGB")


@contextmanager
def _opened(path: Path, max_pixels: int) -> Iterator[Image.Image]:
    try:
        if path.stat().st_size == 0:
            raise ImageError(path, Problem.FILE_EMPTY, "the file has zero bytes")
        with _pillow_limit_off():
            image = Image.open(path, formats=FORMATS)
    except FileNotFoundError as error:
        raise ImageError(path, Problem.FILE_MISSING, "no such file") from error
    except UserError:
        raise
    except Exception as error:  # as in read_rgb
        _raise_if_of_the_mount(path, error)
        raise ImageError(path, Problem.FILE_UNREADABLE, f"not a readable image ({_reason(error)})") from error
    with image:
        if image.width * image.height > max_pixels:
            size = f"{image.width} x {image.height} pixels, more than the limit of {max_pixels}"
            raise ImageError(path, Problem.SIZE_OVER_LIMIT, f"{size}; {RAISE_LIMIT}")
        yield image


def _raise_if_of_the_mount(path: Path, error: Exception) -> None:
    if isinstance(error, OSError) and error.errno in MOUNT_FAULTS:
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextmanager
def _pillow_limit_off() -> Iterator[None]:
    """Pillow's own pixel limit is process-wide and not ours: ours is checked right after the header."""
    with _pillow_limit_lock:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _header(image: Image.Image) -> ImageHeader:
    orientation = _orientation(image)
    swapped = orientation >= 5
    width, height = _stored_size(image)[::-1] if swapped else _stored_size(image)
    return ImageHeader(width=width, height=height, rotated=orientation != 1, swapped=swapped)


def _stored_size(image: Image.Image) -> tuple[int, int]:
    """Width and height before any rotation; Pillow's `size` of a TIFF file is mostly that after it."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return image.tag_v2[TiffImagePlugin.IMAGEWIDTH], image.tag_v2[TiffImagePlugin.IMAGELENGTH]
    return image.size


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1 to 8; damaged EXIF counts as upright, as other readers take it."""
    try:
        orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:
        return 1
    return orientation if orientation in _UPRIGHT else 1


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
