"""Changed data sets, images and settings: refused with a message, or read right; never a crash or a hang."""

import io
import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask

from s4m_cache.coco import read_coco
from s4m_cache.generation import Generation
from s4m_cache.importing import import_coco
from s4m_cache.reader import CacheReader
from s4m_cache.segmentation import decode
from s4m_pipeline.apps.export.review import listed_images
from s4m_pipeline.config.experiment import load_experiment, parse_options
from s4m_pipeline.core.explain import explain
from s4m_pipeline.data.coco import CocoData, load_coco
from s4m_pipeline.data.images import read_header, read_rgb
from s4m_pipeline.data.merging import merge
from s4m_pipeline.data.segmentation import pack_segmentations
from s4m_pipeline.data.splits import read_list
from s4m_pipeline.data.unlabeled import UnlabeledImages, load_unlabeled
from s4m_pipeline.models.load import model_config
from s4m_pipeline.models.registry import register_all
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


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[CocoData, UnlabeledImages]:
    """A labeled image and three unlabeled ones, of which the document labels two."""
    root, rng = tmp_path_factory.mktemp("sets"), np.random.default_rng(0)
    for name in ("labeled/a.png", "more/0.png", "more/3.png", "more/deep/b.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)).save(root / name)
    labeled = {**DOCUMENT, "images": [{**DOCUMENT["images"][0], "file_name": "a.png"}]}
    labeled["annotations"] = [it for it in DOCUMENT["annotations"] if it["image_id"] == 0]
    (root / "labeled.json").write_text(json.dumps(labeled))
    more = root / "more"
    return load_coco(root / "labeled.json", root / "labeled"), load_unlabeled(more, more)


@given(changed_json(DOCUMENT))
def test_merge__changed_document__is_refused_or_gives_a_sound_data_set(
    sets: tuple[CocoData, UnlabeledImages], folder: Path, document: Any
) -> None:
    labeled, unlabeled = sets
    path = folder / "corrected.json"
    path.write_text(json.dumps(document))
    with soon():
        try:
            whole, split = merge(labeled, unlabeled, load_coco(path, unlabeled.source), [])
        except REFUSED:
            return
    found = [annotation for entries in whole.annotations.values() for annotation in entries]
    for ids in ([image.id for image in whole.images], [annotation["id"] for annotation in found]):
        assert len(ids) == len(set(ids))
    assert {annotation["category_id"] for annotation in found} <= {it.id for it in labeled.categories}
    assert {image.path for image in labeled.images} < {image.path for image in whole.images}
    assert not {image.path for image in split.labeled} & {image.path for image in split.unlabeled}


@given(
    st.lists(st.sampled_from(["0.png", "more/3", "b", "# 3.png", "deep/b.png", ".."]) | st.text(max_size=9))
)
def test_listed_images__any_names__are_refused_or_chosen(
    sets: tuple[CocoData, UnlabeledImages], folder: Path, names: list[str]
) -> None:
    path = folder / "names.txt"
    path.write_bytes("\n".join(names).encode(errors="surrogatepass"))
    with soon():
        try:
            found = listed_images(sets[1], read_list(path), path)
        except REFUSED as error:
            assert str(path) in str(error)
            return
    assert found and {*found} <= {*sets[1].images}


@pytest.fixture(scope="module")
def imported(folder: Path) -> Generation:
    (folder / "first.json").write_text(json.dumps(DOCUMENT))
    return import_coco(folder / "first.json", folder / "imported")


@settings(settings(), max_examples=settings().max_examples // 4)  # each copies a cache and adds to it
@given(changed_json(DOCUMENT))
def test_cache_import__changed_document__is_refused_or_laid_over_the_cache(
    imported: Generation, folder: Path, document: Any
) -> None:
    path, root = folder / "again.json", folder / "copy"
    path.write_text(json.dumps(document))
    shutil.copytree(imported.root, root)
    try:
        with soon(), suppress(*REFUSED):
            import_coco(path, root)
        with CacheReader.current(root) as reader:
            assert reader.generation.file_names == imported.file_names
            for image_id in imported.image_ids.tolist():
                assert (reader.read(image_id).instances.masks.areas > 0).all()
    finally:
        shutil.rmtree(root)


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


SMALL = st.sampled_from([None, -1, 0, 3, 0.5, "", "os.system", "Mask2Former", [], [1], {}, {"type": "ReLU"}])


@settings(settings(), max_examples=settings().max_examples // 10)  # each builds a network
@given(changed_json(CONFIG["model"], SMALL))
def test_model__changed_config__is_explained_or_built(model: dict[str, Any]) -> None:
    register_all()
    from mmdet.registry import MODELS

    with soon():
        try:
            MODELS.build(model_config(model, 2))
        except Exception as error:
            assert isinstance(error, REFUSED) or explain(error) is not None, repr(error)
