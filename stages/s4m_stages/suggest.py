"""`s4m suggest`: which unlabeled images to label next."""

from pathlib import Path
from typing import Annotated

import typer

from s4m_pipeline.core import console
from s4m_pipeline.experiment.recorded import experiment_data


def suggest(
    work_dir: Annotated[Path, typer.Argument(help="Folder of the experiment, such as work_dirs/demo.")],
    count: Annotated[int, typer.Option(min=1, metavar="N", help="Images to suggest.")] = 20,
) -> None:
    """Rank the unlabeled images by what a label would teach, from the published pseudo-labels.

    Writes WORK_DIR/suggested.txt, a list of file names, and WORK_DIR/suggested.png, a contact sheet. Next:
    s4m export review.
    """
    data = experiment_data(work_dir)

    from s4m_pipeline.apps.suggest.suggestions import suggest as find
    from s4m_pipeline.apps.suggest.suggestions import write_suggestions

    found = find(work_dir, data, count, console.progress.print)
    names = list(found[0].reasons)
    rows = [
        [str(place), it.image.file_name, *(f"{100 * it.reasons[name]:.0f}" for name in names)]
        for place, it in enumerate(found, start=1)
    ]
    console.print_table(
        "Images to label next, with percentiles among the unlabeled images", ["", "image", *names], rows
    )
    for path in write_suggestions(work_dir, found):
        console.result.print(f"{path}")
    console.progress.print(f"Next: s4m export review {work_dir} FOLDER", soft_wrap=True)
