"""The files of the SAM 2 that the group `sam` names: found without importing `sam2`, which takes seconds."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from s4m_cache.fingerprint import file_sha256
from s4m_pipeline.config.groups import SamOptions
from s4m_pipeline.core.errors import UserError

NANO = "nano"
NANO_DIR = Path(__file__).parents[1] / "sam/nano"
OFFICIAL = {
    f"facebook/{version}-hiera-{size}": (
        f"configs/{version}/{version}_hiera_{letter}.yaml",
        f"{version}_hiera_{size.replace('-', '_')}.pt",
    )
    for version in ("sam2", "sam2.1")
    for size, letter in (("tiny", "t"), ("small", "s"), ("base-plus", "b+"), ("large", "l"))
}
"""Hub names: the YAML in the package `sam2`, and the file of the weights."""


@dataclass(frozen=True, kw_only=True)
class SamSource:
    """Which SAM 2 it is: what was asked for, and what its files hold."""

    model: str
    """A hub name, a path, or `nano`."""
    weights_sha256: str
    """SHA-256 of the weights file."""
    config_sha256: str
    """SHA-256 of the YAML that the network is built from."""


def sam_source(options: SamOptions) -> SamSource:
    """Which SAM 2 a config names, as `sam.load_sam` would load it.

    Raises:
        UserError: as `find_sam`.
    """
    config, weights = find_sam(options.model, options.config, options.weights_dir)
    return SamSource(
        model=options.model, weights_sha256=file_sha256(weights), config_sha256=file_sha256(config)
    )


def find_sam(model: str, config: str | Path | None, weights_dir: str | Path) -> tuple[Path, Path]:
    """The YAML and the weights of a SAM 2; weights of a hub name are downloaded if they are nowhere.

    Args:
        model: a hub name, a .pt or .safetensors file, or `nano`, which is shipped.
        config: YAML; None: the official one, or the one beside the weights.
        weights_dir: where weights of a hub name are looked for first.

    Raises:
        UserError: for an unknown name, or a file that is missing or cannot be downloaded.
    """
    found_config, weights = _named_files(model, Path(weights_dir))
    path = Path(config) if config is not None else found_config or _config_of(weights)
    require_config(path)
    if not weights.is_file():
        raise UserError(f"sam.model: no such file: {weights}. Expected SAM 2 weights (.pt or .safetensors).")
    return path, weights


def local_weights(name: str, weights_dir: str | Path) -> Path | None:
    """The weights of a hub name on this machine: in `weights_dir`, else in the local hub cache."""
    from huggingface_hub import try_to_load_from_cache

    file_name = OFFICIAL[name][1]
    local = Path(weights_dir) / file_name
    if local.is_file():
        return local
    cached = try_to_load_from_cache(name, file_name)
    return Path(cached) if isinstance(cached, str) else None


def official_config(name: str) -> Path:
    """The YAML of a hub name, in the package `sam2`."""
    package = find_spec("sam2")
    assert package is not None and package.origin is not None  # a requirement of ours
    return Path(package.origin).parent / OFFICIAL[name][0]


def require_config(path: Path) -> None:
    """Refuse a YAML that is missing.

    Raises:
        UserError: if it is.
    """
    if not path.is_file():
        raise UserError(f"sam.config: no such file: {path}. Expected a SAM 2 YAML with a `model:` entry.")


def _named_files(model: str, weights_dir: Path) -> tuple[Path | None, Path]:
    """YAML, where the name tells it, and weights."""
    if model == NANO:
        return NANO_DIR / "nano.yaml", NANO_DIR / "nano.safetensors"
    if model in OFFICIAL:
        found = local_weights(model, weights_dir)
        return official_config(model), found or _fetch_from_hub(model, weights_dir)
    if Path(model).suffix not in (".pt", ".safetensors"):
        names = ", ".join([NANO, *OFFICIAL])
        raise UserError(
            f"sam.model: unknown model {model!r}. Give a .pt or .safetensors file, or one of: {names}."
        )
    return None, Path(model)


def _config_of(weights: Path) -> Path:
    beside = weights.with_suffix(".yaml")
    if beside.is_file():
        return beside
    for name, (_, file_name) in OFFICIAL.items():
        if file_name == weights.name:
            return official_config(name)
    raise UserError(
        f"sam.model: {weights} is not an official file name, so its architecture is unknown. "
        f"Put its YAML at {beside} or name it with sam.config."
    )


def _fetch_from_hub(repo: str, weights_dir: Path) -> Path:
    from huggingface_hub import hf_hub_download

    file_name = OFFICIAL[repo][1]
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
