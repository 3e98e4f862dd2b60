"""Weights by the names that settings and arguments give them: a file here, or one that others publish."""

import re
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from s4m_cache.fingerprint import file_hash, file_sha256
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.core.paths import torch_checkpoints

ENDINGS = (".safetensors", ".pth", ".pkl")
MMDET = "mmdet://"
SMALL = "small"
"""Name of the shipped initial weights, which fit configs/_base_/small.py."""
_SMALL_FILE = Path(__file__).parents[1] / "models" / "demo_init" / "demo_init.safetensors"
TORCHVISION = "torchvision://"
"""Prefix of initial weights that torchvision downloads, for the backbone only."""

HUGGING_FACE = tuple(
    f"facebook/mask2former-swin-{name}-instance"
    for name in (
        "tiny-coco",
        "small-coco",
        "base-coco",
        "large-coco",
        "tiny-cityscapes",
        "small-cityscapes",
        "base-IN21k-cityscapes",
        "large-cityscapes",
    )
)
"""Networks of Hugging Face's hub for instances, to suggest."""
_HUB_NAME = re.compile(r"facebook/[\w.-]+|[\w-][\w.-]*/[\w.-]*mask2former[\w.-]*", re.IGNORECASE)
"""Names that are looked for there: those of Meta, and of networks that others trained and named so."""
_HUB_FILES = ("config.json", "model.safetensors")


@dataclass(frozen=True, kw_only=True)
class WeightFile:
    """A file of weights on this machine, and which of its networks is meant."""

    path: Path
    network: str | None = None
    """`teacher` or `student` of a file that holds both; None: not said."""
    published: str | None = None
    """The name that it was fetched by."""

    def __str__(self) -> str:
        """As the user names it."""
        return self.published or str(self.path) + self._suffix

    @property
    def _suffix(self) -> str:
        return f"#{self.network}" if self.network else ""

    def digest(self) -> str:
        """Hash of the file, with the network and the name."""
        name = f" ({self.published})" if self.published else self._suffix
        return file_hash(self.path) + name


def is_published(source: str | Path) -> bool:
    """Whether this names whole networks of mmdet or of Hugging Face's hub, which need not be here yet."""
    text = str(source)
    return _zoo_name(text) is not None or (
        _HUB_NAME.fullmatch(text) is not None
        and Path(text.partition("#")[0]).suffix not in ENDINGS
        and not Path(text).exists()
    )


def is_weights(source: Path) -> bool:
    """Whether an argument names weights, and not images."""
    return is_published(source) or Path(str(source).partition("#")[0]).suffix in ENDINGS


def find_weights(source: str | Path) -> WeightFile:
    """The file of weights, which is fetched if it has a published name and is nowhere on this machine.

    Args:
        source: a path, `FILE#teacher`, `FILE#student`, `small`, `mmdet://NAME`, or a name of Hugging Face's
            hub.

    Raises:
        UserError: for an unknown name, a file that cannot be fetched, or one with another checksum.
    """
    text = str(source)
    if text == SMALL:
        return WeightFile(path=_SMALL_FILE)
    if not is_published(source):
        whole, _, network = text.partition("#") if not Path(text).exists() else (text, "", "")
        return WeightFile(path=Path(whole), network=network or None)
    name = _zoo_name(text)
    path = _from_hub(text) if name is None else _from_zoo(name)
    return WeightFile(path=path, published=text if name is None else MMDET + name)


def weights_here(source: str | Path) -> WeightFile | None:
    """As `find_weights`, but nothing is fetched: None where the file is not on this machine.

    Raises:
        UserError: for a name that mmdet does not have.
    """
    if not is_published(source):
        found = find_weights(source)
        return found if found.path.is_file() else None
    name = _zoo_name(str(source))
    path = zoo_file(name) if name is not None else _hub_file(str(source), _HUB_FILES[1])
    return None if path is None or not path.is_file() else WeightFile(path=path, published=str(source))


def fetch_command(source: str) -> str:
    """Shell command that fetches published weights where there is a network.

    Raises:
        UserError: for a name that mmdet does not have.
    """
    name = _zoo_name(source)
    if name is not None:
        return f"curl --create-dirs -Lo {zoo_file(name)} {zoo_address(name)}"
    return f"hf download {source} {' '.join(_HUB_FILES)} --local-dir {_hub_folder(source)}"


@cache
def zoo() -> dict[str, str]:
    """Addresses of mmdet's Mask2Former networks by name, from the list in its package."""
    package = find_spec("mmdet")
    assert package is not None and package.origin is not None  # a requirement of ours
    listed = Path(package.origin).parent / ".mim/configs/mask2former/metafile.yml"
    addresses = re.findall(r"Weights: (\S+)", listed.read_text(encoding="utf-8"))
    return {address.split("/")[-2]: address for address in addresses}


def zoo_address(name: str) -> str:
    """Where mmdet publishes a network.

    Raises:
        UserError: for an unknown name, with the nearest ones.
    """
    if name not in zoo():
        nearest = get_close_matches(name, zoo(), n=3, cutoff=0)
        raise UserError(
            f"{MMDET}{name}: mmdet has no Mask2Former of this name.\n"
            f"The nearest are: {', '.join(MMDET + found for found in nearest)}."
        )
    return zoo()[name]


def zoo_file(name: str) -> Path:
    """Where torch keeps the file of an mmdet network.

    Raises:
        UserError: as `zoo_address`.
    """
    return torch_checkpoints() / zoo_address(name).rpartition("/")[2]


def _zoo_name(text: str) -> str | None:
    """The name behind `mmdet://`, of which a `Path` keeps one slash."""
    return text.removeprefix("mmdet:").lstrip("/") if text.startswith("mmdet:/") else None


def _from_zoo(name: str) -> Path:
    address, path = zoo_address(name), zoo_file(name)
    checksum = path.stem.rpartition("-")[2]  # mmdet ends names in the first eight digits of the SHA-256
    if not path.is_file():
        from torch.hub import download_url_to_file

        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Written under another name, and renamed when its checksum is right.
            download_url_to_file(address, str(path), hash_prefix=checksum, progress=False)
        except (OSError, RuntimeError) as error:
            raise _not_fetched(MMDET + name, error) from error
    _require_checksum(path, checksum)
    return path


def _hub_file(repo: str, file: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(repo, file)
    return Path(cached) if isinstance(cached, str) else None


def _from_hub(repo: str) -> Path:
    from huggingface_hub import hf_hub_download

    paths = [_hub_file(repo, file) for file in _HUB_FILES]
    if None in paths:
        try:
            paths = [Path(hf_hub_download(repo, file)) for file in _HUB_FILES]
        except Exception as error:  # the hub client raises its own, its HTTP library's and OS errors
            raise _not_fetched(repo, error) from error
    weights = paths[-1]
    assert weights is not None
    blob = weights.resolve().name  # the hub's cache names large files by their SHA-256
    if re.fullmatch("[0-9a-f]{64}", blob):
        _require_checksum(weights.resolve(), blob)
    return weights


def _require_checksum(path: Path, digits: str) -> None:
    found = file_sha256(path)
    if not found.startswith(digits):
        raise UserError(
            f"{path} is damaged: its SHA-256 begins with {found[: len(digits)]}, {digits} expected.\n"
            "Delete it and repeat the command."
        )


def _not_fetched(name: str, error: Exception) -> UserError:
    nearest = [] if name.startswith(MMDET) else get_close_matches(name, HUGGING_FACE, n=3, cutoff=0.4)
    known = f" The hub has {', '.join(nearest)}." if nearest else ""
    place = (
        "copy the file to the same place here"
        if name.startswith(MMDET)
        else f"copy the folder here, and name {_hub_folder(name)}/{_HUB_FILES[1]} instead. Of the hub only "
        "safetensors are read"
    )
    return UserError(
        f"{name} is no file here, and fetching it failed ({type(error).__name__}: {error}).{known}\n"
        f"Where there is a network:  {fetch_command(name)}\nThen {place}."
    )


def _hub_folder(repo: str) -> str:
    return f"weights/{repo.partition('/')[2]}"
