"""Read image files: the header is checked before decoding, and every format becomes RGB uint8.

`loading` is how errors met on the way reach the user, from any process.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, TiffImagePlugin

from s4m_cache.errors import MOUNT_FAULTS, CacheError
from s4m_cache.limits import MAX_PIXELS, MAX_RATIO, RAISE_LIMIT, is_thin
from s4m_cache.storage import is_remote
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.core.explain import explain
from s4m_pipeline.core.locations import read_remote
from s4m_pipeline.data.findings import Problem

EXTENSIONS = frozenset(
    {".bmp", ".jfif", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
"""File name suffixes of images, in lower case."""
UNREAD = frozenset({".avif", ".dcm", ".dng", ".gif", ".heic", ".heif", ".jp2", ".jxl", ".nef", ".svg"})
"""Suffixes of images that are not read."""

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
    """An image file cannot be used; `problem` and `detail` are for reports on many files."""

    def __init__(self, path: Path, problem: Problem, detail: str) -> None:
        super().__init__(f"{path}: {detail}. Run `s4m data check` to list all such files of a data set.")
        self.problem = problem
        self.detail = detail


@dataclass(frozen=True)
class ImageHeader:
    """Size in pixels of the upright image, and whether EXIF asks for a rotation or flip."""

    width: int
    height: int
    rotated: bool
    swapped: bool
    """The rotation swaps width and height."""


def read_header(path: Path, max_pixels: int = MAX_PIXELS) -> ImageHeader:
    """Size of the image without decoding it.

    Raises:
        ImageError: missing, empty, not an image, too thin, or more than `max_pixels`.
        OSError: the network mount is gone, so nothing is known about the image.
    """
    with _opened(path, max_pixels) as image:
        return _header(image)


def read_rgb(path: Path, max_pixels: int = MAX_PIXELS) -> tuple[npt.NDArray[np.uint8], ImageHeader]:
    """Decode an image to upright RGB, uint8 (H, W, 3), and return it with its header.

    All photos of the project are converted here: the EXIF orientation is applied; alpha is dropped (the
    colors below it are kept); gray is repeated; palettes and CMYK become RGB without a color profile; 16-bit
    values are reduced to their high byte; of several frames the first is read.

    Raises:
        ImageError: as `read_header`; or truncated or corrupt pixels, or float or 32-bit pixels.
        OSError: as `read_header`.
    """
    with _opened(path, max_pixels) as image:
        header = _header(image)
        try:
            rgb = _to_rgb(image)
            transposition = _UPRIGHT.get(_orientation(image))  # none for TIFF: Pillow applies it on decoding
            upright = rgb if transposition is None else rgb.transpose(transposition)
            return np.array(upright, dtype=np.uint8), header
        except Exception as error:  # decoders raise many kinds of exceptions on damaged bytes
            _raise_mount_error(path, error)
            raise ImageError(
                path, Problem.FILE_UNREADABLE, f"cannot be decoded ({_reason(error)})"
            ) from error


def read_gray(path: Path) -> npt.NDArray[np.uint16]:
    """Decode a grayscale image of 16 or 8 bits, uint16 (H, W), without changing its values.

    Raises:
        ImageError: as `read_header`; or truncated pixels, or colors, or more than 16 bits.
        OSError: as `read_header`.
    """
    with _opened(path, MAX_PIXELS) as image:
        if image.mode not in ("L", "I;16", "I;16B"):
            kind = f"has pixels of kind {image.mode}, expected a grayscale image of 16 or 8 bits"
            raise ImageError(path, Problem.FILE_UNREADABLE, kind)
        try:
            return np.array(image, dtype=np.uint16)
        except Exception as error:  # as in read_rgb
            _raise_mount_error(path, error)
            raise ImageError(
                path, Problem.FILE_UNREADABLE, f"cannot be decoded ({_reason(error)})"
            ) from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F" or (image.mode == "I" and image.format == "TIFF"):  # mode I of a PGM is 16-bit
        kind = "float" if image.mode == "F" else "32-bit or signed integer"
        raise ValueError(f"{kind} pixels have no defined range; save the image as 8- or 16-bit unsigned")
    _refuse_misread_tiff(image)
    if image.mode.startswith("I"):
        high_byte = np.clip(np.asarray(image, dtype=np.int64), 0, 65535) >> 8
        if _tiff_tag(image, TiffImagePlugin.PHOTOMETRIC_INTERPRETATION, 1) == 0:  # 0 is white
            high_byte = 255 - high_byte  # Pillow inverts 8-bit values only
        return Image.fromarray(high_byte.astype(np.uint8)).convert("RGB")
    return image.convert("RGB")


def _refuse_misread_tiff(image: Image.Image) -> None:
    """Refuse kinds of TIFF that Pillow decodes to wrong values without an error."""
    bits = _tiff_tag(image, TiffImagePlugin.BITSPERSAMPLE, (8,))
    if 2 in np.atleast_1d(_tiff_tag(image, TiffImagePlugin.SAMPLEFORMAT, (1,))):
        raise ValueError("signed pixels have no defined range; save the image as 8- or 16-bit unsigned")
    planar = _tiff_tag(image, TiffImagePlugin.PLANAR_CONFIGURATION, 1) == 2
    if planar and len(image.getbands()) > 1 and max(bits) > 8:
        raise ValueError("16-bit colors in separate planes; save the image with interleaved colors")


def _tiff_tag(image: Image.Image, tag: int, default: Any) -> Any:
    return image.tag_v2.get(tag, default) if isinstance(image, TiffImagePlugin.TiffImageFile) else default


@contextmanager
def _opened(path: Path, max_pixels: int) -> Iterator[Image.Image]:
    try:
        content = BytesIO(read_remote(path)) if is_remote(path) else None
        if (len(content.getvalue()) if content else path.stat().st_size) == 0:
            raise ImageError(path, Problem.FILE_EMPTY, "the file has zero bytes")
        with _pillow_limit_off():
            image = Image.open(content or path, formats=FORMATS)
    except FileNotFoundError as error:
        raise ImageError(path, Problem.FILE_MISSING, "no such file") from error
    except UserError:
        raise
    except Exception as error:  # as in read_rgb
        _raise_mount_error(path, error)
        raise ImageError(path, Problem.FILE_UNREADABLE, f"not a readable image ({_reason(error)})") from error
    with image:
        if image.width * image.height > max_pixels:
            size = f"{image.width} x {image.height} pixels, more than the limit of {max_pixels}"
            raise ImageError(path, Problem.SIZE_OVER_LIMIT, f"{size}; {RAISE_LIMIT}")
        if is_thin(*image.size):
            size = f"{image.width} x {image.height} pixels, more than {MAX_RATIO} times as long as wide"
            raise ImageError(path, Problem.SIZE_THIN, size)
        yield image


def _raise_mount_error(path: Path, error: Exception) -> None:
    """Raise an OSError naming `path` if `error` says that the mount is gone."""
    if isinstance(error, OSError) and error.errno in MOUNT_FAULTS:
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextmanager
def _pillow_limit_off() -> Iterator[None]:
    """Disable Pillow's process-wide pixel limit; ours is checked right after reading the header."""
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
    """Width and height before rotation; for TIFF, Pillow's `size` is usually that after it."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return image.tag_v2[TiffImagePlugin.IMAGEWIDTH], image.tag_v2[TiffImagePlugin.IMAGELENGTH]
    return image.size


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1 to 8; 1 (upright) if the EXIF data are damaged, as in most programs."""
    try:
        orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:
        return 1
    return orientation if orientation in _UPRIGHT else 1


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


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
