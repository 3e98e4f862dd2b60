"""The loader: what it finds, what it refuses, and that Hydra's global state stays the host program's."""

import hashlib
import pickle
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file

from s4m_pipeline.config.groups import SamOptions
from s4m_pipeline.config.sam_files import NANO_DIR, OFFICIAL, official_config
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.sam import BatchedSam, Prompts, build_sam, load_configured_sam, load_sam
from tests.conftest import CreatesFile

SMALL_YAML = (NANO_DIR / "nano.yaml").read_text()
OFFICIAL_YAML = official_config("facebook/sam2.1-hiera-tiny")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small model as own.safetensors and, in the official form, own.pt, and its YAML."""
    folder = tmp_path_factory.mktemp("weights")
    (folder / "own.yaml").write_text(SMALL_YAML)
    torch.manual_seed(0)
    state = build_sam(folder / "own.yaml").state_dict()
    save_file(state, folder / "own.safetensors")
    torch.save({"model": state}, folder / "own.pt")
    return folder


@pytest.mark.parametrize("file_name", ["own.pt", "own.safetensors"])
def test_load_sam__local_file_with_yaml_beside_it_loads(saved: Path, file_name: str) -> None:
    loaded = load_sam(str(saved / file_name))
    expected = torch.load(saved / "own.pt", weights_only=True)["model"]
    found = loaded.network.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert not loaded.network.training
    assert not any(parameter.requires_grad for parameter in loaded.network.parameters())
    assert loaded.weights_sha256 == hashlib.sha256((saved / file_name).read_bytes()).hexdigest()
    assert loaded.config_sha256 == hashlib.sha256((saved / "own.yaml").read_bytes()).hexdigest()


def test_load_sam__yaml_elsewhere_is_taken_when_named(saved: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone.safetensors"
    alone.write_bytes((saved / "own.safetensors").read_bytes())
    assert load_sam(str(alone), config=saved / "own.yaml").model == str(alone)
    with pytest.raises(UserError, match=r"Put its YAML at .*alone\.yaml"):
        load_sam(str(alone))


def test_load_configured_sam__takes_model_config_and_folder_from_the_options(
    saved: Path, tmp_path: Path
) -> None:
    (tmp_path / "sam2.1_hiera_tiny.pt").symlink_to(saved / "own.pt")
    options = SamOptions(
        model="facebook/sam2.1-hiera-tiny", config=str(saved / "own.yaml"), weights_dir=str(tmp_path)
    )
    loaded = load_configured_sam(options)
    assert loaded.model == options.model
    assert loaded.weights_sha256 == hashlib.sha256((saved / "own.pt").read_bytes()).hexdigest()
    assert loaded.config_sha256 == hashlib.sha256((saved / "own.yaml").read_bytes()).hexdigest()


def test_load_sam__official_file_name_needs_no_yaml(tmp_path: Path) -> None:
    weights = tmp_path / "sam2.1_hiera_tiny.pt"
    torch.save({"model": build_sam("facebook/sam2.1-hiera-tiny").state_dict()}, weights)
    by_path = load_sam(str(weights))
    by_name = load_sam("facebook/sam2.1-hiera-tiny", weights_dir=tmp_path)
    assert by_path.weights_sha256 == by_name.weights_sha256
    assert by_name.config_sha256 == hashlib.sha256(OFFICIAL_YAML.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    "name",
    [f"facebook/sam2{v}-hiera-{s}" for v in ("", ".1") for s in ("tiny", "small", "base-plus", "large")],
)
def test_load_sam__hub_name_without_network_says_what_to_fetch_and_where_to_put_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*_: object) -> str:
        raise OSError("no route to host")

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", no_network)
    file_name = name.removeprefix("facebook/").replace("-", "_") + ".pt"
    with pytest.raises(UserError) as caught:
        load_sam(name, weights_dir=tmp_path)
    assert f"https://huggingface.co/{name}/resolve/main/{file_name}" in str(caught.value)
    assert str(tmp_path / file_name) in str(caught.value)
    assert "no route to host" in str(caught.value)


def test_load_sam__hub_cache_is_used_before_the_network(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: str(saved / "own.pt"))
    loaded = load_sam("facebook/sam2.1-hiera-tiny", config=saved / "own.yaml", weights_dir=tmp_path)
    assert loaded.weights_sha256 == hashlib.sha256((saved / "own.pt").read_bytes()).hexdigest()


def test_official__names_and_files__are_those_of_the_package() -> None:
    from sam2.build_sam import HF_MODEL_ID_TO_FILENAMES

    assert HF_MODEL_ID_TO_FILENAMES == OFFICIAL


def test_load_sam__unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"'facebook/sam3'.*nano, facebook/sam2-hiera-tiny"):
        load_sam("facebook/sam3")


def test_load_sam__missing_file_is_a_user_error(saved: Path) -> None:
    with pytest.raises(UserError, match=r"no such file: .*gone\.pt"):
        load_sam(str(saved / "gone.pt"), config=saved / "own.yaml")


def test_load_sam__pickle_with_code_is_refused_and_not_run(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "evil.pt").write_bytes(pickle.dumps({"model": CreatesFile(tmp_path / "ran")}))
    torch.save({"model": CreatesFile(tmp_path / "ran")}, tmp_path / "evil2.pt")
    for name in ("evil.pt", "evil2.pt"):
        with pytest.raises(UserError, match="contains code, which is never run"):
            load_sam(str(tmp_path / name), config=saved / "own.yaml")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("file_name", ["own.pt", "own.safetensors"])
@pytest.mark.parametrize("keep", [0, 100, 50_000])
def test_load_sam__truncated_file_is_a_user_error(
    saved: Path, tmp_path: Path, file_name: str, keep: int
) -> None:
    (tmp_path / file_name).write_bytes((saved / file_name).read_bytes()[:keep])
    with pytest.raises(UserError, match="could not be read as plain tensors"):
        load_sam(str(tmp_path / file_name), config=saved / "own.yaml")


def test_load_sam__weights_of_another_architecture_are_refused(saved: Path) -> None:
    with pytest.raises(UserError, match=r"does not fit its architecture \(missing .*and \d+ more\)"):
        load_sam(str(saved / "own.pt"), config=OFFICIAL_YAML)


def test_load_sam__file_that_holds_no_mapping_is_refused(saved: Path, tmp_path: Path) -> None:
    torch.save([torch.zeros(2)], tmp_path / "list.pt")
    with pytest.raises(UserError, match="contains a list"):
        load_sam(str(tmp_path / "list.pt"), config=saved / "own.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(
            "model: {_target_: os.system, command: 'true'}", r"instantiates os\.system", id="system-call"
        ),
        pytest.param(
            "model: {_target_: sam2.modeling.sam2_base.SAM2Base, image_encoder: [{_target_: builtins.eval}]}",
            r"instantiates builtins\.eval",
            id="nested-in-a-list",
        ),
        pytest.param(
            "name: os.system\nmodel: {_target_: '${name}'}",
            r"instantiates os\.system",
            id="behind-an-interpolation",
        ),
        pytest.param("model: [1, 2", "not readable as YAML", id="broken-yaml"),
        pytest.param("trainer: {}", "no `model:` mapping", id="no-model"),
        pytest.param("model: {x: '${y}'}", "not readable as YAML", id="an-interpolation-of-nothing"),
        pytest.param("model: {image_size: 3}", "describes no SAM 2 network", id="no-target"),
        pytest.param(
            SMALL_YAML.replace("decoder_mlp_dim: 256", "decoder_mlp_dim: null"),
            "describes no SAM 2 network",
            id="a-value-that-no-layer-takes",
        ),
        pytest.param(
            "model: !!python/object/apply:os.system ['true']", "not readable as YAML", id="a-tag-with-code"
        ),
        pytest.param("- 1", "no `model:` mapping", id="a-list"),
    ],
)
def test_build_sam__yaml_that_is_not_a_sam2_architecture_is_refused(
    tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        build_sam(tmp_path / "own.yaml")


@pytest.mark.parametrize(
    "config", sorted(OFFICIAL_YAML.parents[1].glob("sam2*/sam2*_hiera_*.yaml")), ids=lambda p: p.stem
)
def test_build_sam__every_official_yaml_passes_the_check(config: Path) -> None:
    from s4m_pipeline.sam.loader import _read_config

    if "training" not in config.parent.name:
        assert _read_config(config).image_size == 1024


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_build_sam__small_architecture_without_memory_runs_batched(dtype: torch.dtype) -> None:
    sam = BatchedSam(build_sam(NANO_DIR / "nano.yaml"), dtype=dtype)
    embeddings = sam.encode([torch.zeros(3, 128, 128, dtype=torch.uint8), torch.ones(3, 60, 90)])
    found = sam.decode(embeddings, torch.tensor([1, 0]), Prompts(boxes_xyxy_px=torch.rand(2, 4)), "all")
    height, width = sam.network.sam_prompt_encoder.image_embedding_size
    assert embeddings.tokens_BChw.shape == (2, sam.network.hidden_dim, height, width)
    assert found.logits.shape == (2, 3, 4 * height, 4 * width)
    assert found.logits.isfinite().all()


IMPORT_LEAVES_HYDRA_FREE = """
import s4m_pipeline.sam, hydra, pathlib, sys
from hydra.core.global_hydra import GlobalHydra
assert not GlobalHydra.instance().is_initialized()
with hydra.initialize_config_dir(config_dir=sys.argv[1], version_base=None):
    assert hydra.compose("user").mine == 7
"""

IMPORT_KEEPS_HOST_STATE = """
import hydra, sys
hydra.initialize_config_dir(config_dir=sys.argv[1], version_base=None)
import s4m_pipeline.sam
assert hydra.compose("user").mine == 7
s4m_pipeline.sam.build_sam(sys.argv[2])
assert hydra.compose("user").mine == 7
"""


@pytest.mark.parametrize("program", [IMPORT_LEAVES_HYDRA_FREE, IMPORT_KEEPS_HOST_STATE], ids=["free", "kept"])
def test_import__hydra_state_of_the_host_program_is_untouched(tmp_path: Path, program: str) -> None:
    (tmp_path / "user.yaml").write_text("mine: 7\n")
    subprocess.run([sys.executable, "-c", program, str(tmp_path), str(NANO_DIR / "nano.yaml")], check=True)
