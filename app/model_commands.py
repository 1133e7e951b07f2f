"""The commands for trained networks: export them, measure them."""

from __future__ import annotations

import re
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hamuco.app.offline import (
    RECORDINGS,
    TABLES,
    DatasetOption,
    LimitOption,
    LiveOption,
    ProtocolOption,
    TablesOption,
    ViewsOption,
    check_choices,
    measure,
    opened_bundle,
    saying_so,
)

if TYPE_CHECKING:
    from hamuco.engine.bundle import Bundle


def export(
    checkpoint: Annotated[
        Path,
        typer.Argument(help="Checkpoint of a training: last.pt in its folder, or best.pt, if it has a validation."),
    ],
    bundle: Annotated[Path, typer.Argument(help="Folder to make.")],
    name: Annotated[str | None, typer.Option(help="Name for tables; the folder's if not given.")] = None,
    licence: Annotated[str, typer.Option(help="Licence of the weights, as their training data allow.")] = "not stated",
    half: Annotated[
        bool, typer.Option("--half/--full", help="Store weights in half precision, in half the space.")
    ] = True,
) -> None:
    """Make a bundle of a trained network: a folder that live tracking runs without torch.

    The bundle is compared with the network before it gets its name.

    Example: hamuco export training/best.pt hamuco-mine && hamuco live --replay rec --model hamuco-mine
    """
    with saying_so(f"interrupted: nothing is left of {bundle}"):
        made = _export(checkpoint, bundle, name or bundle.name, licence, half)
    size = sum(file.stat().st_size for file in bundle.iterdir())
    typer.echo(f"{bundle}: {size / 1e6:.1f} MB, crops of {made.card.image_size} px, {made.card.accuracy}")
    typer.echo(f"Next: hamuco evaluate {bundle} RECORDING, hamuco live --replay RECORDING --model {bundle}")


def evaluate(
    model: Annotated[Path, typer.Argument(help="A checkpoint, a bundle from hamuco export, or hamuco-s.")],
    paths: Annotated[list[Path], typer.Argument(help=f"{RECORDINGS}. Or data sets; see --dataset.")],
    dataset: DatasetOption = None,
    out: TablesOption = TABLES,
    protocol: ProtocolOption = None,
    live: LiveOption = None,
    limit: LimitOption = None,
    views: ViewsOption = None,
) -> None:
    """How good is a trained network? Its rows beside those of the default methods, as hamuco bench accuracy has them.

    A checkpoint is exported first, so that what is measured is what would run live.

    Examples:

        hamuco evaluate training/best.pt hard8 --protocol hamuco

        hamuco evaluate hamuco-mine rec

        hamuco evaluate hamuco-mine --dataset hanco ~/HanCo
    """
    numbers = check_choices(dataset, views)
    with tempfile.TemporaryDirectory(prefix="hamuco-") as folder:
        bundle = (
            partial(_export, model, Path(folder) / "bundle", checkpoint_name(model), "not stated", half=False)
            if model.is_file()
            else opened_bundle(model)
        )
        from hamuco.app.accuracy import AccuracyOptions

        measure(paths, dataset, AccuracyOptions(out, protocol, live, limit, numbers, bundle))


def checkpoint_name(path: Path) -> str:
    """For tables, with the training's folder: x/last of runs/x/last.pt, x/round-2/last of runs/x/round-2/last.pt."""
    path = path.resolve()
    folders = 2 if re.fullmatch(r"round-\d+", path.parent.name) else 1
    parts = [*path.parent.parts[-folders:], path.stem]
    # What tables and legends would take for markup is left out.
    return "/".join(filter(None, (re.sub(r"[^\w.+=-]+", "-", part).strip("-") for part in parts)))


def _export(checkpoint: Path, bundle: Path, name: str, licence: str, half: bool) -> Bundle:
    try:
        from hamuco.training.export import export_checkpoint

        return export_checkpoint(checkpoint, bundle, name, licence, half)
    except ModuleNotFoundError as error:
        raise ValueError(
            f'a checkpoint needs {error.name}, which is not installed: pip install "hamuco[train]"; a bundle does not'
            if error.name
            else str(error)  # of what only some backbones need
        ) from error
