"""Find, check and load SAM 2 weights: a hub name, a local file, or the nano model that is shipped.

Nothing here runs code from a file: weights are read as tensors only, and a YAML may instantiate only the
classes of `ALLOWED_TARGETS`.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import sam2
import torch
import yaml
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from safetensors.torch import load_file
from sam2.build_sam import HF_MODEL_ID_TO_FILENAMES
from sam2.modeling.sam2_base import SAM2Base

from s4m_pipeline.errors import UserError
from s4m_pipeline.options.groups import SamOptions

NANO = "nano"
NANO_DIR = Path(__file__).parent / "nano"
SAM2_DIR = Path(sam2.__path__[0])

ALLOWED_TARGETS = frozenset(
    {
        "sam2.modeling.sam2_base.SAM2Base",
        "sam2.modeling.backbones.hieradet.Hiera",
        "sam2.modeling.backbones.image_encoder.FpnNeck",
        "sam2.modeling.backbones.image_encoder.ImageEncoder",
        "sam2.modeling.memory_attention.MemoryAttention",
        "sam2.modeling.memory_attention.MemoryAttentionLayer",
        "sam2.modeling.memory_encoder.CXBlock",
        "sam2.modeling.memory_encoder.Fuser",
        "sam2.modeling.memory_encoder.MaskDownSampler",
        "sam2.modeling.memory_encoder.MemoryEncoder",
        "sam2.modeling.position_encoding.PositionEmbeddingSine",
        "sam2.modeling.sam.transformer.RoPEAttention",
        "s4m_pipeline.sam.nano.model.NanoSam2",
    }
)


@dataclass(frozen=True, kw_only=True)
class LoadedSam:
    """A SAM 2 network in eval mode, fp32, on the CPU, without gradients, and where it came from."""

    network: SAM2Base
    model: str
    """What was asked for: a hub name, a path, or `nano`."""
    weights_sha256: str
    """SHA-256 of the weights file, for the provenance of labels made with it."""
    config_sha256: str
    """SHA-256 of the YAML that the network was built from."""


def load_sam(
    model: str, *, config: str | Path | None = None, weights_dir: str | Path = "weights"
) -> LoadedSam:
    """Load SAM 2 by name.

    `model` is a hub name (`facebook/sam2.1-hiera-large`), a `.pt` or `.safetensors` file, or `nano`.
    `config` is the YAML of a local file; by default the file beside it with the suffix `.yaml`, or the
    official one if the file bears an official name. Weights of a hub name are taken from `weights_dir`,
    from the local hub cache, or downloaded, in this order.

    Raises `UserError` for unknown names, missing files, unsafe or mismatched contents.
    """
    config_path, weights_path = _find_files(
        model, None if config is None else Path(config), Path(weights_dir)
    )
    network = build_sam(config_path)
    _load_weights(network, weights_path)
    return LoadedSam(
        network=network.eval().requires_grad_(False),
        model=model,
        weights_sha256=_sha256(weights_path),
        config_sha256=_sha256(config_path),
    )


def load_configured_sam(options: SamOptions) -> LoadedSam:
    """Load the SAM 2 that an experiment's group `sam` names; see `load_sam`."""
    return load_sam(options.model, config=options.config, weights_dir=options.weights_dir)


def build_sam(config: str | Path, *, image_size: int | None = None) -> SAM2Base:
    """Build an architecture with random weights, in eval mode, from a YAML's path or a hub name.

    `image_size` (px, a multiple of 32) replaces the configured side of the square input.
    """
    path = (
        SAM2_DIR / HF_MODEL_ID_TO_FILENAMES[config][0] if config in HF_MODEL_ID_TO_FILENAMES else Path(config)
    )
    architecture = _read_config(path)
    if image_size is not None:
        architecture.image_size = image_size
    network: SAM2Base = instantiate(architecture)
    return network.eval()


def _find_files(model: str, config: Path | None, weights_dir: Path) -> tuple[Path, Path]:
    if model == NANO:
        return NANO_DIR / "nano.yaml", NANO_DIR / "nano.safetensors"
    if model in HF_MODEL_ID_TO_FILENAMES:
        config_name, file_name = HF_MODEL_ID_TO_FILENAMES[model]
        local = weights_dir / file_name
        weights = local if local.is_file() else _fetch_from_hub(model, file_name, weights_dir)
        return config or SAM2_DIR / config_name, weights
    weights = Path(model)
    if weights.suffix not in (".pt", ".safetensors"):
        names = ", ".join([NANO, *HF_MODEL_ID_TO_FILENAMES])
        raise UserError(
            f"sam.model: unknown model {model!r}. Give a .pt or .safetensors file, or one of: {names}."
        )
    return config or _config_of(weights), weights


def _config_of(weights: Path) -> Path:
    beside = weights.with_suffix(".yaml")
    if beside.is_file():
        return beside
    for config_name, file_name in HF_MODEL_ID_TO_FILENAMES.values():
        if file_name == weights.name:
            return SAM2_DIR / str(config_name)
    raise UserError(
        f"sam.model: {weights} is not an official file name, so its architecture is unknown. "
        f"Put its YAML at {beside} or name it with sam.config."
    )


def _fetch_from_hub(repo: str, file_name: str, weights_dir: Path) -> Path:
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    cached = try_to_load_from_cache(repo, file_name)
    if isinstance(cached, str):
        return Path(cached)
    try:
        return Path(hf_hub_download(repo, file_name))
    except Exception as error:  # the hub client raises its own, its HTTP library's and OS errors
        place = weights_dir.resolve()
        raise UserError(
            f"sam.model: the weights of {repo} are neither in {place} nor in the local hub cache, and "
            f"downloading them failed ({type(error).__name__}: {error}). Where there is a network, fetch "
            f"https://huggingface.co/{repo}/resolve/main/{file_name} and put it at {place / file_name}; "
            f"or use sam.model = 'nano', which is shipped."
        ) from error


def _read_config(path: Path) -> DictConfig:
    if not path.is_file():
        raise UserError(f"sam.config: no such file: {path}. Expected a SAM 2 YAML with a `model:` entry.")
    try:
        config = OmegaConf.load(path)
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError, OSError) as error:
        raise UserError(f"sam.config: {path} is not readable as YAML: {error}") from error
    architecture = config.get("model") if isinstance(config, DictConfig) else None
    if not isinstance(architecture, DictConfig):
        raise UserError(
            f"sam.config: {path} has no `model:` mapping. Expected the form of sam2's own YAML files."
        )
    refused = sorted({*_targets(architecture)} - ALLOWED_TARGETS)
    if refused:
        raise UserError(
            f"sam.config: {path} wants to instantiate {', '.join(refused)}. Only SAM 2's own modules are "
            f"allowed: a YAML could run any code otherwise. Use an official YAML or remove these entries."
        )
    return architecture


def _targets(node: object) -> list[str]:
    """All values of `_target_` in a config tree, interpolations resolved as `instantiate` would."""
    if isinstance(node, DictConfig):
        own = [str(node["_target_"])] if "_target_" in node else []
        return own + [target for key in node for target in _targets(node[key])]
    if isinstance(node, ListConfig):
        return [target for item in node for target in _targets(item)]
    return []


def _load_weights(network: SAM2Base, path: Path) -> None:
    if not path.is_file():
        raise UserError(f"sam.model: no such file: {path}. Expected SAM 2 weights (.pt or .safetensors).")
    try:
        state = _read_tensors(path)
    except Exception as error:  # damaged bytes make the unpickler raise nearly anything
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(
            f"sam.model: {path} could not be read as plain tensors: {reason}\n"
            f"It is damaged, or it holds code, which is never run. Fetch it again, or convert it to "
            f".safetensors."
        ) from error
    network.load_state_dict(_checked_state(state, network, path))


def _read_tensors(path: Path) -> object:
    if path.suffix == ".safetensors":
        return load_file(path)
    content = torch.load(path, map_location="cpu", weights_only=True)
    return content.get("model", content) if isinstance(content, dict) else content


def _checked_state(state: object, network: SAM2Base, path: Path) -> dict[str, torch.Tensor]:
    if not isinstance(state, dict):
        raise UserError(
            f"sam.model: {path} holds a {type(state).__name__}, expected a mapping of names to tensors."
        )
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {name: tuple(getattr(tensor, "shape", ())) for name, tensor in state.items()}
    faults = [f"missing {name}" for name in sorted(expected.keys() - found.keys())]
    faults += [f"unexpected {name}" for name in sorted(found.keys() - expected.keys())]
    faults += [
        f"{name}: {found[name]} instead of {expected[name]}"
        for name in sorted(expected.keys() & found.keys())
        if found[name] != expected[name]
    ]
    if faults:
        shown = "; ".join(faults[:5]) + (f"; and {len(faults) - 5} more" if len(faults) > 5 else "")
        raise UserError(
            f"sam.model: {path} does not fit its architecture ({shown}). "
            f"Give the YAML that the weights were trained with as sam.config."
        )
    return state


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
