"""`s4m data demo|cells|crowds|coins|miniature`: write data sets to try things on."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from s4m_pipeline.core import console
from s4m_stages.arguments import Force

if TYPE_CHECKING:
    from s4m_pipeline.data.scenes.writer import Subset

miniature_app = typer.Typer(
    help="Write a tiny data set of drawn images in the layout of a large one, to test a reproduction.",
    no_args_is_help=True,
)

Counts = TypeVar("Counts")
Seed = Annotated[int, typer.Option(min=0, help="The same seed gives the same bytes.")]


def demo(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder for train, val and test.")],
    seed: Seed = 0,
    force: Force = False,
) -> None:
    """Write the demo's data set: drawn scenes as PNG images and COCO JSON."""
    from s4m_pipeline.data.scenes.writer import DEMO_SUBSETS, write_demo

    _write_drawn(folder, DEMO_SUBSETS, force, lambda: write_demo(folder, seed))


def cells(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder for train, val, unlabeled and test.")],
    seed: Seed = 0,
    force: Force = False,
) -> None:
    """Write an example of micrographs: drawn gray tiles with dim cells that touch."""
    from s4m_pipeline.data.scenes.cells import CELL_SUBSETS, write_cells

    _write_drawn(folder, CELL_SUBSETS, force, lambda: write_cells(folder, seed))


def crowds(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder for train, val, unlabeled and test.")],
    seed: Seed = 0,
    force: Force = False,
) -> None:
    """Write the ablations' data set: drawn crowds whose classes are easy to tell and whose masks are hard.

    Their depth maps, in the folder depth, are the order in which the scenes were painted.
    """
    from s4m_pipeline.data.scenes.crowds import CROWD_SUBSETS, write_crowds

    _write_drawn(folder, CROWD_SUBSETS, force, lambda: write_crowds(folder, seed))


def _write_drawn(
    folder: Path, subsets: "Sequence[Subset]", force: bool, write: Callable[[], dict[str, int]]
) -> None:
    counts = _written_once(folder / f"{subsets[-1].name}.json", force, write)
    for subset in subsets:
        line = f"{folder / subset.name}.json: {subset.size} images, {counts[subset.name]} objects"
        console.progress.print(line, soft_wrap=True)


def coins(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder for the tiles.")],
    force: Force = False,
) -> None:
    """Write an example of real data: tiles of the photograph of coins that scikit-image ships."""
    from s4m_pipeline.data.coins import REGIONS, write_coins

    counts = _written_once(folder / f"{REGIONS[-1].name}.json", force, lambda: write_coins(folder))
    for region in REGIONS:
        images, instances = counts[region.name]
        line = f"{folder / region.name}: {images} images; {region.json_name}: {instances} instances"
        console.progress.print(line, soft_wrap=True)


@miniature_app.command("cityscapes")
def miniature_cityscapes(
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="Folder for leftImg8bit and gtFine.")],
    seed: Seed = 0,
    force: Force = False,
) -> None:
    """Write 40 training and 10 validation images with the folders, file names and encodings of Cityscapes."""
    from s4m_pipeline.data.miniature.cityscapes import last_file, write_cityscapes

    _print_sizes(root, _written_once(last_file(root), force, lambda: write_cityscapes(root, seed)))


@miniature_app.command("coco")
def miniature_coco(
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="Folder for train2017, val2017, annotations.")],
    seed: Seed = 0,
    force: Force = False,
) -> None:
    """Write 60 training and 12 validation images with the folders, file names and encodings of COCO 2017."""
    from s4m_pipeline.data.miniature.coco import last_file, write_coco

    _print_sizes(root, _written_once(last_file(root), force, lambda: write_coco(root, seed)))


def _print_sizes(root: Path, sizes: dict[str, int]) -> None:
    for name, size in sizes.items():
        console.progress.print(f"{root}, {name}: {size} images", soft_wrap=True)


def _written_once(last: Path, force: bool, write: Callable[[], Counts]) -> Counts:
    """Run `write`, which writes a data set whose last file is `last`; refuse if that exists."""
    from s4m_pipeline.core.errors import UserError

    if last.exists() and not force:
        raise UserError(f"{last} exists: this data set is already written. Use --force to write it again.")
    try:
        last.unlink(missing_ok=True)  # its presence marks a finished data set
        return write()
    except OSError as error:
        raise UserError(
            f"{last.parent}: cannot be written ({error.strerror}). Use a different folder."
        ) from error
