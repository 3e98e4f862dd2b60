"""Image files of every kind, sound and damaged."""

import errno
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, TiffImagePlugin

from s4m_cache.errors import CacheError
from s4m_cache.limits import max_pixels
from s4m_pipeline.data.findings import Problem
from s4m_pipeline.data.images import ImageError, read_header, read_rgb

REPOSITORY = Path(__file__).parents[2]

RED_TOP = np.zeros((16, 24, 3), np.uint8)
RED_TOP[:8, :, 0] = 200
RED_CORNER = RED_TOP.copy()
RED_CORNER[:, 12:] = 0


def save_rotated(path, orientation, **how):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(RED_CORNER).save(path, exif=exif, **how)


@pytest.mark.parametrize(
    ("name", "how"),
    [("a.png", {}), ("a.tif", {}), ("a.tif", {"compression": "tiff_lzw"})],
    ids=["png", "tiff", "tiff-lzw"],
)
@pytest.mark.parametrize(
    ("orientation", "red"),
    [
        (1, "top left"),
        (2, "top right"),
        (3, "bottom right"),
        (4, "bottom left"),
        (5, "top left"),
        (6, "top right"),
        (7, "bottom right"),
        (8, "bottom left"),
    ],
)
def test_read_rgb__exif_orientation_is_turned_upright(tmp_path, orientation, red, name, how):
    save_rotated(tmp_path / name, orientation, **how)
    rgb, header = read_rgb(tmp_path / name)
    upper, lower = rgb[:4], rgb[-4:]
    corners = {
        "top left": upper[:, :4],
        "top right": upper[:, -4:],
        "bottom left": lower[:, :4],
        "bottom right": lower[:, -4:],
    }
    assert [corner for corner, pixels in corners.items() if (pixels[..., 0] == 200).all()] == [red]
    assert (header.height, header.width) == rgb.shape[:2] == ((24, 16) if orientation >= 5 else (16, 24))
    assert header == read_header(tmp_path / name)
    assert header.rotated == (orientation != 1)
    assert header.swapped == (orientation >= 5)


def test_read_rgb__orientation_in_the_xmp_of_a_tiff_is_turned_upright(tmp_path):
    xmp = b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
    Image.fromarray(RED_TOP).save(tmp_path / "a.tif", tiffinfo={700: xmp})
    rgb, header = read_rgb(tmp_path / "a.tif")
    assert (rgb[:, -4:, 0] == 200).all()
    assert (header.height, header.width) == rgb.shape[:2] == (24, 16)


def test_read_rgb__cmyk_jpeg_becomes_the_same_colors(tmp_path):
    Image.fromarray(RED_TOP).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    rgb, _ = read_rgb(tmp_path / "a.jpg")
    assert rgb.dtype == np.uint8
    assert np.abs(rgb[4, 12].astype(int) - [200, 0, 0]).max() < 12


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
def test_read_rgb__sixteen_bit_gray_takes_the_high_byte(tmp_path, name):
    values = np.linspace(0, 65535, 24 * 16).astype(np.uint16).reshape(16, 24)
    Image.fromarray(values).save(tmp_path / name)
    rgb, _ = read_rgb(tmp_path / name)
    assert (rgb == (values >> 8)[..., None]).all()


def png_chunk(kind, content):
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


def test_read_rgb__sixteen_bit_color_takes_the_high_byte(tmp_path):
    values = np.arange(6 * 4 * 3, dtype=np.uint16).reshape(4, 6, 3) * 900
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", 6, 4, 16, 2, 0, 0, 0)
    chunks = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    rgb, _ = read_rgb(tmp_path / "a.png")
    assert (rgb == values >> 8).all()


def test_read_rgb__alpha_is_dropped_and_colors_stay(tmp_path):
    rgba = np.dstack([RED_TOP, np.zeros((16, 24), np.uint8)])
    Image.fromarray(rgba).save(tmp_path / "a.png")
    assert (read_rgb(tmp_path / "a.png")[0] == RED_TOP).all()


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA"])
def test_read_rgb__gray_bilevel_and_palette_have_three_channels(tmp_path, mode):
    image = Image.fromarray(RED_TOP).convert("L").point(lambda v: 255 if v else 0).convert(mode)
    image.save(tmp_path / "a.png")
    rgb, _ = read_rgb(tmp_path / "a.png")
    assert (rgb[0, 0] == 255).all()
    assert (rgb[-1, 0] == 0).all()


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite", "rgb", "palette", "separated"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_read_rgb__tiff_of_any_photometric_interpretation__has_its_colors_or_is_refused(
    tmp_path, kind, photometric, planar
):
    gray = np.arange(0, 240, dtype=np.uint8).reshape(12, 20)
    color = np.stack([gray, gray[::-1], gray[:, ::-1]], axis=2)
    stored = {
        "minisblack": gray,
        "miniswhite": 255 - gray,
        "rgb": color,
        "palette": gray,
        "separated": np.concatenate([255 - color, np.zeros_like(gray)[..., None]], axis=2),
    }[photometric]
    samples = stored.astype(kind) * (257 if kind is np.uint16 else 1)
    if planar == "separate" and samples.ndim == 3:
        samples = np.moveaxis(samples, 2, 0)
    values = np.arange(256 if kind is np.uint8 else 65536)
    tables = np.stack([values, values[::-1], values]) * (257 if kind is np.uint8 else 1)
    extra = {"colormap": tables.astype(np.uint16)} if photometric == "palette" else {}
    if samples.ndim == 3:
        extra["planarconfig"] = planar
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, samples, photometric=photometric, **extra)
    expected = color if stored.ndim == 3 else np.repeat(gray[..., None], 3, axis=2)
    if photometric == "palette":
        expected = np.stack([gray, 255 - gray, gray], axis=2)
    try:
        pixels, _ = read_rgb(path)
    except ImageError:
        assert kind is np.uint16
        assert photometric == "palette" or planar == "separate"
    else:
        np.testing.assert_array_equal(pixels, expected)


def test_read_rgb__signed_tiff__is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.full((4, 6), -3, np.int8), photometric="minisblack")
    with pytest.raises(ImageError, match="signed pixels"):
        read_rgb(tmp_path / "a.tif")


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_read_rgb__pixels_without_a_range_are_refused(tmp_path, kind):
    Image.fromarray(np.full((4, 4), 200, kind)).save(tmp_path / "a.tif")
    with pytest.raises(ImageError, match="no defined range"):
        read_rgb(tmp_path / "a.tif")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp", "a.webp", "a.tif"])
def test_read_rgb__truncated_file_is_unreadable(tmp_path, name):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / name)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(ImageError) as caught:
        read_rgb(tmp_path / name)
    assert caught.value.problem is Problem.FILE_UNREADABLE
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", Problem.FILE_EMPTY),
        (b"<html>not found</html>", Problem.FILE_UNREADABLE),
        (None, Problem.FILE_MISSING),
    ],
    ids=["empty", "html", "missing"],
)
def test_read_header__no_image_says_what_it_is(tmp_path, content, problem):
    if content is not None:
        (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ImageError) as caught:
        read_header(tmp_path / "a.png")
    assert caught.value.problem is problem


def test_read_header__postscript_is_never_run(tmp_path):
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")
    with pytest.raises(ImageError, match="not a readable image"):
        read_header(tmp_path / "a.png")


def test_read_rgb__decompression_bomb_is_refused_from_its_header(tmp_path):
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0)
    chunks = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    limit = Image.MAX_IMAGE_PIXELS
    with pytest.raises(ImageError, match=r"100000 x 100000 pixels.*--max-pixels"):
        read_rgb(tmp_path / "bomb.png")
    assert read_header(tmp_path / "bomb.png", max_pixels=10**10).width == 100_000
    assert limit == Image.MAX_IMAGE_PIXELS


def test_max_pixels__of_the_environment__is_taken_or_refused():
    assert max_pixels({}) == 100_000_000
    assert max_pixels({"S4M_MAX_PIXELS": "5"}) == 5
    for faulty in ("", "0", "-5", "1e9", "many"):
        with pytest.raises(CacheError, match=f"S4M_MAX_PIXELS={faulty}: expected"):
            max_pixels({"S4M_MAX_PIXELS": faulty})


def test_read_rgb__limit_of_the_environment__reaches_every_reader(tmp_path):
    Image.new("RGB", (30, 20)).save(tmp_path / "small.png")
    code = "import sys, pathlib, s4m_pipeline.data.images as i; i.read_rgb(pathlib.Path(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "small.png"],
        env={**os.environ, "S4M_MAX_PIXELS": "599"},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert "30 x 20 pixels, more than the limit of 599" in done.stderr
    assert "everywhere with S4M_MAX_PIXELS" in done.stderr


def test_read_rgb__damaged_exif_counts_as_upright(tmp_path):
    Image.fromarray(RED_TOP).save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff", quality=95)
    assert read_rgb(tmp_path / "a.jpg")[0].shape == (16, 24, 3)


def test_read_rgb__several_frames_gives_the_first(tmp_path):
    frames = [Image.fromarray(RED_TOP), Image.fromarray(255 - RED_TOP)]
    frames[0].save(tmp_path / "a.tif", save_all=True, append_images=frames[1:])
    assert TiffImagePlugin.TiffImageFile(tmp_path / "a.tif").n_frames == 2
    assert (read_rgb(tmp_path / "a.tif")[0] == RED_TOP).all()


@pytest.mark.parametrize("read", [read_rgb, read_header])
def test_read__of_a_mount_that_is_gone__does_not_blame_the_image(
    read: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object, **__: object) -> None:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr(Path, "stat", gone)
    with pytest.raises(OSError, match=r"Stale file handle: '.*7.png'"):
        read(tmp_path / "7.png")
