"""Load SAM 2 weights: a hub name, a local file, or the shipped nano model.

No file can run code: weights are read as tensors only, and a YAML may only instantiate `ALLOWED_TARGETS`.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from safetensors.torch import load_file
from sam2.modeling.sam2_base import SAM2Base

from s4m_cache.fingerprint import file_sha256
from s4m_pipeline.config.groups import SamOptions
from s4m_pipeline.config.sam_files import OFFICIAL, SamSource, find_sam, official_config, require_config
from s4m_pipeline.core.errors import UserError

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
class LoadedSam(SamSource):
    """A SAM 2 network in eval mode, fp32, on the CPU, without gradients, and its origin."""

    network: SAM2Base


def load_sam(
    model: str, *, config: str | Path | None = None, weights_dir: str | Path = "weights"
) -> LoadedSam:
    """Load SAM 2 by name.

    `model` is a hub name (`facebook/sam2.1-hiera-large`), a `.pt` or `.safetensors` file, or `nano`.
    `config` is the YAML of a local file; by default the file beside it with the suffix `.yaml`, or the
    official one if the file has an official name. Weights of a hub name are looked for in `weights_dir`, then
    in the local hub cache, and downloaded otherwise.

    Raises `UserError` for unknown names, missing files, and unsafe or mismatched contents.
    """
    config_path, weights_path = find_sam(model, config, weights_dir)
    network = build_sam(config_path)
    _load_weights(network, weights_path)
    return LoadedSam(
        network=network.eval().requires_grad_(False),
        model=model,
        weights_sha256=file_sha256(weights_path),
        config_sha256=file_sha256(config_path),
    )


def load_configured_sam(options: SamOptions) -> LoadedSam:
    """Load the SAM 2 of an experiment's `sam` options; see `load_sam`."""
    return load_sam(options.model, config=options.config, weights_dir=options.weights_dir)


def build_sam(config: str | Path, *, image_size: int | None = None) -> SAM2Base:
    """Build an architecture with random weights, in eval mode, from a YAML's path or a hub name.

    `image_size` (px, a multiple of 32) replaces the configured side of the square input.
    """
    path = official_config(str(config)) if config in OFFICIAL else Path(config)
    architecture = _read_config(path)
    if image_size is not None:
        architecture.image_size = image_size
    try:
        network = instantiate(architecture)
        if not isinstance(network, SAM2Base):
            raise TypeError(f"`model` has the _target_ {architecture.get('_target_')}")
    except Exception as error:  # the networks' constructors check nothing
        raise UserError(
            f"sam.config: {path} describes no SAM 2 network: {error}\n"
            "Expected the YAML that the weights were trained with; correct it, or copy it again."
        ) from error
    return network.eval()


def _read_config(path: Path) -> DictConfig:
    require_config(path)
    try:
        config = OmegaConf.load(path)
        architecture = config.get("model") if isinstance(config, DictConfig) else None
        targets = {*_targets(architecture)}
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError, OSError, RecursionError) as error:
        raise UserError(f"sam.config: {path} is not readable as YAML: {error}") from error
    if not isinstance(architecture, DictConfig):
        raise UserError(
            f"sam.config: {path} has no `model:` mapping. Expected the format of sam2's own YAML files."
        )
    if refused := sorted(targets - ALLOWED_TARGETS):
        raise UserError(
            f"sam.config: {path} instantiates {', '.join(refused)}. Only SAM 2's own modules are allowed, "
            f"because a YAML could run any code otherwise. Use an official YAML or remove these entries."
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
    try:
        state = _read_tensors(path)
    except Exception as error:  # the unpickler raises many kinds of exceptions on damaged bytes
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(
            f"sam.model: {path} could not be read as plain tensors: {reason}\n"
            f"It is damaged, or contains code, which is never run. Download it again, or convert it to "
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
            f"sam.model: {path} contains a {type(state).__name__}, expected a mapping of names to tensors."
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
            f"Set sam.config to the YAML that the weights were trained with."
        )
    return state
