"""Where the labels of an experiment are, for commands that are given its folder alone."""

import json
from pathlib import Path

from s4m_cache.atomic import write_text
from s4m_cache.errors import disk_error
from s4m_cache.storage import is_remote
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.core.locations import cache_location
from s4m_pipeline.core.paths import CACHE, CACHE_PLACE


def note_cache(folder: Path, root: str | None) -> None:
    """Keep the setting `cache.root` in the folder of an experiment.

    Raises:
        CacheError: if it cannot be written.
    """
    place = folder / CACHE_PLACE
    try:
        if root is None:
            place.unlink(missing_ok=True)
        else:
            root = root if "://" in root else str(Path(root).absolute())
            folder.mkdir(parents=True, exist_ok=True)
            write_text(place, json.dumps({"root": root}) + "\n")
    except OSError as error:
        raise disk_error(place, 4096, error) from error


def experiment_cache(folder: Path) -> Path:
    """The cache that an experiment's labels were written to last, or that is in its folder.

    Raises:
        UserError: if the note of it is damaged, or it has an address that cannot be read.
    """
    place = folder / CACHE_PLACE
    try:
        return cache_location(json.loads(place.read_text())["root"])
    except FileNotFoundError:
        return folder / CACHE
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{place} is damaged: {error!r}.\nDelete it; the next `s4m refine` writes it again."
        ) from error


def cache_of(source: str | Path) -> Path:
    """The cache that is meant by its folder or address, or by the folder of its experiment.

    Raises:
        UserError: as `experiment_cache`.
    """
    place = cache_location(str(source))
    cache = place if is_remote(place) else experiment_cache(place)
    return cache if is_remote(cache) or cache.is_dir() else place
