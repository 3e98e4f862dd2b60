"""`s4m report similarity`: the picture of Figure 7, from the demo's network and the shipped SAM 2."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from s4m_pipeline.config.loading import load_config
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.models.checkpoint import write_weights
from s4m_pipeline.models.registry import register_all
from s4m_stages.report import similarity
from tests.conftest import CLASSES, REPOSITORY, TinyCoco

DEMO = REPOSITORY / "configs/demo/demo.py"
NANO = ["sam.model=nano"]


@pytest.fixture(scope="module")
def network():
    from s4m_pipeline.models.load import build_network

    config, _ = load_config(DEMO)
    torch.manual_seed(0)
    return build_network(config, len(CLASSES)).eval()


@pytest.fixture(scope="module")
def checkpoint(network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    write_weights(path, network.state_dict(), CLASSES)
    return path


@pytest.fixture
def image(tiny_coco: TinyCoco) -> Path:
    return tiny_coco.images("val") / "1.png"


def test_similarity__picture_has_a_row_per_point_and_a_panel_per_network(
    checkpoint: Path, image: Path, tmp_path: Path
) -> None:
    sizes = {}
    for name, points, baseline in (("small", ["10,20"], None), ("large", ["10,20", "50,60"], checkpoint)):
        out = tmp_path / f"{name}.png"
        similarity(DEMO, checkpoint, image, points, baseline, out, NANO)
        sizes[name] = Image.open(out).size
    step = sizes["large"][0] - sizes["small"][0]  # one panel
    assert sizes["small"][0] > 3 * step
    assert sizes["large"][1] - sizes["small"][1] == step  # the image is square


@pytest.fixture(scope="module")
def report():
    register_all()
    from s4m_pipeline.apps.report import similarity as module

    return module


def test_network_maps__are_the_cosines_of_the_embedding_below_each_token(
    report, network, image: Path
) -> None:
    """Against plain indexing: with tokens as wide as the embedding's cells nothing is resampled."""
    config, _ = load_config(DEMO)
    sam = report.SamMaps(torch.zeros(2, 16, 16), torch.tensor([3 * 16 + 5, 0]))  # 64 px image, stride 4
    maps = report.network_maps(network, config["test_pipeline"], image, sam)

    pixels = torch.from_numpy(np.array(Image.open(image))).permute(2, 0, 1)[None].float()
    preprocessor = network.data_preprocessor
    with torch.no_grad():
        features = network.extract_feat((pixels - preprocessor.mean) / preprocessor.std)
        embedding = network.panoptic_head.pixel_decoder(features)[0][0]
    for found, (row, column) in zip(maps, [(3, 5), (0, 0)], strict=True):
        expected = torch.cosine_similarity(embedding, embedding[:, row, column, None, None], dim=0)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_draw__marks_the_point_and_colors_by_similarity(report) -> None:
    step = torch.cat([torch.zeros(4, 2), torch.ones(4, 2)], dim=1)[None]  # similar in the right half
    column = report.Column(title="step", subtitle="", maps_Phw=step)
    picture = np.array(report.draw(np.full((30, 30, 3), 128, np.uint8), [(15, 10)], [column]))
    panel = report.PANEL_PX
    top, left = picture.shape[0] - panel - report.GAP_PX, report.GAP_PX
    x, y = (round((value + 0.5) * panel / 30) for value in (15, 10))
    for start in (left, left + panel + report.GAP_PX):
        assert tuple(picture[top + y, start + x]) == (255, 0, 0)
    low, high = report._colors(np.array([[0.0, 1.0]]))[0]
    middle, second = top + panel // 2, left + panel + report.GAP_PX
    assert tuple(picture[middle, second + 5]) == tuple(low)
    assert tuple(picture[middle, second + panel - 5]) == tuple(high)


@pytest.mark.parametrize("point", ["64,0", "0,64", "-1,3", "7", "a,b", "1;2"])
def test_similarity__point_outside_or_malformed_is_refused(
    point: str, checkpoint: Path, image: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"--point .*(outside the image of 64 x 64|expected X,Y)"):
        similarity(DEMO, checkpoint, image, [point], None, tmp_path / "out.png", NANO)
    assert not list(tmp_path.iterdir())


def test_similarity__missing_image_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.png: no such file"):
        similarity(DEMO, checkpoint, tmp_path / "absent.png", ["1,1"])


def test_similarity__missing_folder_is_refused(checkpoint: Path, image: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder"):
        similarity(DEMO, checkpoint, image, ["1,1"], None, tmp_path / "absent/out.png", NANO)


def test_similarity__checkpoints_of_other_classes_are_refused(
    network, checkpoint: Path, image: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.safetensors"
    write_weights(other, network.state_dict(), ("cat", "dog"))
    with pytest.raises(UserError, match=r"(?s)cat, dog.*bright, dark"):
        similarity(DEMO, checkpoint, image, ["1,1"], other, tmp_path / "out.png", NANO)
    nameless = tmp_path / "nameless.safetensors"
    write_weights(nameless, network.state_dict(), ())
    with pytest.raises(UserError, match="does not say which classes"):
        similarity(DEMO, nameless, image, ["1,1"], None, tmp_path / "out.png", NANO)
