"""`SCHEMA.md` suffices: a reader written from it, with zarr, numpy and the standard library only."""

import json
import shutil
import zlib

import numpy as np
import zarr

from s4m_cache import sealed
from s4m_cache.reader import CacheReader
from test_cache.samples import make_labels, make_published


def read_sealed(path):
    data = path.read_bytes()
    tail = len(',"crc32":"00000000"}\n')
    head, seal = data[:-tail], data[-tail:]
    assert seal == b',"crc32":"%08x"}\n' % zlib.crc32(head)
    return json.loads(data)


def unpack(bits, boxes, height, width):
    """Dense masks of all instances of a part, given as if all images had the same size."""
    position, masks = 0, []
    for y0, x0, y1, x1 in boxes:
        mask = np.zeros((height, width), bool)
        row_bytes = -(-(x1 - x0) // 8)
        for y in range(y0, y1):
            row = bits[position : position + row_bytes]
            mask[y, x0:x1] = [row[i // 8] >> (7 - i % 8) & 1 for i in range(x1 - x0)]
            position += row_bytes
        masks.append(mask)
    assert position == len(bits)
    return np.array(masks).reshape(-1, height, width)


def test_schema__reader_written_from_it_sees_the_same_labels(tmp_path):
    make_published(tmp_path)

    folder = tmp_path / f"gen-{read_sealed(tmp_path / 'CURRENT.json')['generation']:04d}"
    description = read_sealed(folder / "generation.json")
    assert (description["format"], description["version"]) == ("s4m-cache", 2)
    assert description["classes"] == ["car", "person", "tree"]
    assert description["image_ids_crc32"] == zlib.crc32((folder / "image_ids.npy").read_bytes())
    assert read_sealed(folder / "PUBLISHED.json")["quality"] == {}

    seen, versions = [], set()
    for part in sorted((folder / "parts").iterdir()):
        manifest = read_sealed(part / "MANIFEST.json")
        for name, (size, checksum) in manifest["files"].items():
            data = (part / name).read_bytes()
            assert (len(data), zlib.crc32(data)) == (size, checksum)
        arrays = {
            path.parent.name: zarr.open_array(path.parent, mode="r")[:] for path in part.glob("*/zarr.json")
        }
        assert arrays["image_id"].tolist() == manifest["image_id"]
        assert manifest["version"] == (3 if 2 in arrays["use_raw"] else 2)
        versions.add(manifest["version"])
        masks = unpack(arrays["bits"], arrays["bbox"], 40, 56)
        raw_masks = unpack(arrays["raw_bits"], arrays["raw_bbox"], 40, 56)
        for n, image_id in enumerate(manifest["image_id"]):
            expected = make_labels(image_id)
            rows = slice(*arrays["inst_ptr"][n : n + 2])
            assert arrays["image_hw"][n].tolist() == [40, 56]
            use_raw, ignored = arrays["use_raw"][rows] == 1, arrays["use_raw"][rows] == 2
            used = np.where(use_raw[:, None, None], raw_masks[rows], masks[rows])
            np.testing.assert_array_equal(used, expected.dense())
            np.testing.assert_array_equal(masks[rows], expected.instances.refined_masks.dense((0, 0, 40, 56)))
            np.testing.assert_array_equal(raw_masks[rows], expected.instances.raw_masks.dense((0, 0, 40, 56)))
            np.testing.assert_array_equal(use_raw, expected.instances.use_raw)
            np.testing.assert_array_equal(ignored, expected.instances.ignored)
            for name, field in {
                "label": "labels", "score": "scores", "pred_iou": "pred_ious", "raw_iou": "raw_ious",
            }.items():  # fmt: skip
                np.testing.assert_array_equal(arrays[name][rows], getattr(expected.instances, field))
            seen.append(image_id)
    assert sorted(seen) == np.load(folder / "image_ids.npy").tolist()
    assert versions == {2, 3}


def test_schema__arrays_are_encoded_as_specified(tmp_path):
    generation = make_published(tmp_path)
    part = generation.part_paths()[0]
    inner = [
        {"name": "bytes"},
        {"name": "zstd", "configuration": {"level": 9, "checksum": False}},
        {"name": "crc32c"},
    ]
    for path in part.glob("*/zarr.json"):
        metadata = json.loads(path.read_text())
        assert metadata["fill_value"] == 0
        assert metadata["chunk_key_encoding"] == {"name": "default", "configuration": {"separator": "."}}
        codecs = metadata["codecs"]
        if path.parent.name in ("bits", "raw_bits"):
            assert [codec["name"] for codec in codecs] == ["sharding_indexed"]
            configuration = codecs[0]["configuration"]
            assert configuration["chunk_shape"] == [65_536]
            assert configuration["index_location"] == "end"
            assert [codec["name"] for codec in configuration["index_codecs"]] == ["bytes", "crc32c"]
            codecs = configuration["codecs"]
        assert [codec["name"] for codec in codecs] == [codec["name"] for codec in inner]
        assert codecs[1:] == inner[1:]
        assert metadata["chunk_grid"]["name"] == "regular"


def test_schema__part_of_version_1_uses_the_refined_masks_alone(tmp_path):
    generation = make_published(tmp_path)
    for part in generation.part_paths():
        shutil.rmtree(part / "use_raw")
        manifest = read_sealed(part / "MANIFEST.json")
        files = {name: entry for name, entry in manifest["files"].items() if not name.startswith("use_raw/")}
        body = {**manifest, "version": 1, "files": files}
        body.pop("crc32")
        (part / "MANIFEST.json").write_bytes(sealed.dump(body))
    with CacheReader(generation) as reader:
        for image_id in reader.image_ids.tolist():
            expected = make_labels(image_id).instances.refined_masks
            instances = reader.read(image_id).instances
            assert not instances.use_raw.any()
            assert instances.raw_masks is None
            np.testing.assert_array_equal(instances.masks.bits, expected.bits)
