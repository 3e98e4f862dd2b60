"""Changed data sets, images and settings: refused with a message, or read right; never a crash or a hang."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask

from s4m_cache.coco import read_coco
from s4m_cache.segmentation import decode
from s4m_pipeline.config.experiment import load_experiment, parse_options
from s4m_pipeline.data.coco import load_coco
from s4m_pipeline.data.images import read_header, read_rgb
from s4m_pipeline.data.segmentation import pack_segmentations
from tests.conftest import REPOSITORY
from tests.test_reliability.fuzzing import REFUSED, changed_bytes, changed_json, odd_values, soon

HEIGHT, WIDTH = 16, 24
_MASK = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
_MASK[3:9, 5:20] = 1
_RLE = {"size": [HEIGHT, WIDTH], "counts": coco_mask.encode(_MASK)["counts"].decode()}
_SEGMENTATIONS: list[Any] = [
    [[1, 1, 9, 1, 9, 9.5]],
    _RLE,
    {"size": [HEIGHT, WIDTH], "counts": [100, 40, HEIGHT * WIDTH - 140]},
    [[1, 1, 9, 1, 9, 9], [12, 2, 20, 2, 20, 9, 12, 9]],
]
DOCUMENT = {
    "images": [
        {"id": number, "file_name": f"{number}.png", "height": HEIGHT, "width": WIDTH} for number in (0, 3)
    ],
    "categories": [{"id": 17, "name": "dog"}, {"id": 3, "name": "cat"}],
    "annotations": [
        {"id": number, "image_id": number % 2 * 3, "category_id": 17, "iscrowd": 0, "segmentation": found}
        | ({"bbox": [5, 3, 15, 6], "area": 90} if found is _RLE else {})
        for number, found in enumerate(_SEGMENTATIONS)
    ],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@given(changed_json(DOCUMENT))
def test_coco__changed_document__is_refused_or_its_masks_are_those_of_pycocotools(
    folder: Path, document: Any
) -> None:
    path = folder / "labels.json"
    path.write_text(json.dumps(document))
    with soon():
        try:
            data = load_coco(path, folder)
        except REFUSED:
            return
        assert data.usable <= {a["id"] for found in data.annotations.values() for a in found}
        for image in data.images:
            assert image.path.is_relative_to(folder.resolve())
            for annotation in data.instances(image.id):
                segmentation = annotation["segmentation"]
                packed = pack_segmentations([segmentation], image.height, image.width)
                assert packed.areas[0] > 0
                if not isinstance(segmentation, dict) or isinstance(segmentation["counts"], list):
                    segmentation = coco_mask.frPyObjects(segmentation, image.height, image.width)
                drawn = coco_mask.merge(segmentation) if isinstance(segmentation, list) else segmentation
                expected = coco_mask.decode(drawn).astype(bool)
                np.testing.assert_array_equal(decode(annotation["segmentation"], *expected.shape), expected)
                np.testing.assert_array_equal(packed.dense((0, 0, *expected.shape))[0], expected)


@given(changed_json(DOCUMENT))
def test_cache_import__changed_document__is_refused_or_read(folder: Path, document: Any) -> None:
    path = folder / "import.json"
    path.write_text(json.dumps(document))
    with soon():
        try:
            source = read_coco(path)
            for image_id, (height, width) in source.images.items():
                labels = source.labels(image_id)
                assert (labels.height, labels.width) == (height, width)
                assert (labels.instances.masks.areas > 0).all()
        except REFUSED:
            return


def _file(format_: str, mode: str = "RGB", **options: Any) -> tuple[str, bytes]:
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).convert(mode.removesuffix(";16"))
    if mode == "I;16":
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    out = io.BytesIO()
    image.save(out, format_, **options)
    return format_.lower(), out.getvalue()


_ROTATED = Image.Exif()
_ROTATED[0x0112] = 6
FILES = [
    _file("PNG"),
    _file("PNG", "P"),
    _file("PNG", "I;16"),
    _file("JPEG", exif=_ROTATED),
    _file("JPEG", "CMYK"),
    _file("TIFF"),
    _file("TIFF", compression="tiff_lzw"),
    _file("TIFF", "I;16", compression="tiff_deflate"),
    _file("WEBP", lossless=True),
    _file("BMP"),
    _file("PPM"),
]


@given(st.sampled_from(FILES).flatmap(lambda file: st.tuples(st.just(file[0]), changed_bytes(file[1]))))
def test_read_rgb__changed_image__is_refused_or_has_the_size_of_its_header(
    folder: Path, file: tuple[str, bytes]
) -> None:
    path = folder / f"image.{file[0]}"
    path.write_bytes(file[1])
    with soon():
        try:
            header = read_header(path, max_pixels=10**6)
            pixels, _ = read_rgb(path, max_pixels=10**6)
        except REFUSED:
            return
    assert pixels.shape == (header.height, header.width, 3)
    assert pixels.dtype == np.uint8


DEMO = REPOSITORY / "configs/demo/demo.py"
_OPTIONS, CONFIG = load_experiment(DEMO, [])
KEYS = [
    f"{group}.{name}" for group, value in CONFIG.items() if isinstance(value, dict) for name in value
] + list(CONFIG)


@given(changed_json(CONFIG))
def test_parse_options__changed_config__is_refused_or_taken(config: dict[str, Any]) -> None:
    with soon():
        try:
            parse_options(config)
        except REFUSED as error:
            assert "fault(s)" in str(error)


@given(st.sampled_from(KEYS) | st.text(max_size=12), odd_values.map(repr) | st.text(max_size=20))
def test_set__any_key_and_text__is_refused_or_taken(key: str, text: str) -> None:
    with soon():
        try:
            load_experiment(DEMO, [f"{key}={text}"])
        except REFUSED as error:
            assert "fault(s)" in str(error)
