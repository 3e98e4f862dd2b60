"""Names of annotation files that follow from the names of their images."""

from collections.abc import Callable, Mapping
from pathlib import PurePosixPath

from s4m_pipeline.core.errors import UserError


def named_after(file_names: Mapping[int, str], rule: Callable[[str], str]) -> dict[int, str]:
    """The file of each image, by image id.

    Args:
        file_names: of the images.
        rule: the annotation file of an image.

    Raises:
        UserError: if two images would share one.
    """
    files = {id_: rule(name) for id_, name in file_names.items()}
    owners: dict[str, int] = {}
    for id_, file in files.items():
        other = owners.setdefault(file, id_)
        if other != id_:
            raise UserError(
                f"{file_names[other]} and {file_names[id_]} (images {other} and {id_}) would share the label "
                f"file {file}: it is named as the image, without its extension.\nRename one of them."
            )
    return files


def with_extension(name: str, extension: str) -> str:
    """A name with a different extension, or none."""
    return str(PurePosixPath(name).with_suffix(extension))
