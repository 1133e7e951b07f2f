"""The commands around training: make labels, train."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hamuco.app.offline import Lines, progress_bar, saying_so
from hamuco.capture.recording import Recording

if TYPE_CHECKING:
    from hamuco.training.config import TrainConfig


def label(
    recording: Annotated[Path, typer.Argument(help="A recording; its labels will lie in its folder.")],
    openpose: Annotated[
        Path | None,
        typer.Option(
            help="Import OpenPose's JSON files from here, a folder for each camera. For recordings of one person: of "
            "several, each view would take the one whose hands it sees best.",
            show_default=False,
        ),
    ] = None,
    hands: Annotated[int, typer.Option(min=1, max=8, help="How many hands there are at most.")] = 2,
) -> None:
    """Say where the joints of the hands are in every image of a recording, for training without hand-made labels.

    The hands are followed as in live tracking, and each view's landmarks are kept with a confidence. An interrupted run
    goes on where it was.

    Examples:

        hamuco label rec

        hamuco label rec --openpose keypoints
    """
    from hamuco.training.labelling import label_recording
    from hamuco.training.openpose import import_openpose

    opened = Recording.open(recording)
    for warning in opened.warnings:
        typer.echo(f"warning: {warning}", err=True)
    if openpose is not None:
        labels, name = import_openpose(opened, openpose), "openpose"
    else:
        with saying_so("interrupted: the same command goes on from here"), progress_bar("labelling") as progress:
            labels, name = label_recording(opened, hands, progress), "landmarks"
    seen = labels.seen
    typer.echo(
        f"{recording / 'labels' / name}.npz: {seen.sum()} labels, {len(set(labels.set_id.tolist()))} of {labels.sets} sets "
        f"with hands, by {labels.source}"
    )
    for number, camera in enumerate(labels.cameras):
        own = labels.camera == number
        mean = labels.confidence[own & seen].mean() if (own & seen).any() else 0.0
        typer.echo(
            f"  {camera}: {(own & seen).sum()} hands, mean confidence {mean:.2f}; {(own & ~seen).sum()} not seen well"
        )
    if not seen.any():
        raise ValueError(
            f"no hand was found in {recording}: look at it with `hamuco live --replay {recording} --view`; a wrong "
            "calibration is the usual reason"
        )
    chosen = "" if name == "landmarks" else f" --set sources.0.labels={name}"
    typer.echo(f"Next: hamuco train my-rig --set sources.0.recording={recording}{chosen}")


def train(
    config: Annotated[
        str,
        typer.Argument(
            help="A TOML file, or a configuration of the package: hamuco-s, hamuco-r18, hamuco-r50, my-rig."
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a value: --set steps=20000. Repeat it.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the training. If not given, runs/NAME; for the config.toml in a training's folder, that folder.",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint, if there is one.")] = False,
) -> None:
    """Train the networks. Needs PyTorch, which is among what the extra named train installs.

    The folder gets last.pt (a checkpoint; with a validation, best.pt too), log.csv and curves.png, and config.toml. With
    --resume a training goes on from last.pt as if nothing had happened. Ctrl-C or SIGTERM saves one after the step that is being
    made (a second one stops at once); under torchrun, and before the first step, it only stops. Losses in log.csv are means over
    the steps since the row before; in the first row after --resume, since that.

    With --set rounds=3 the network relabels its recordings after a round and learns from that in the next, in folders
    round-1 and so on, which was worth 1 % when it was measured. It goes on by the config.toml beside these.

    Examples:

        hamuco train hamuco-s --out runs/s

        hamuco train my.toml --set sources.0.recording=rec --set run.threads=2

        hamuco train runs/my/config.toml --resume

        torchrun --nproc-per-node 4 -m hamuco.app.cli train my.toml
    """
    try:
        from hamuco.training.config_file import read_values

        values = read_values(config, overrides or [])  # before torch, which takes seconds to load

        from torch import OutOfMemoryError

        from hamuco.training.config import config_from
        from hamuco.training.rounds import train_rounds
    except ModuleNotFoundError as error:
        raise OSError(f'training needs {error.name}, which is not installed: pip install "hamuco[train]"') from error

    chosen = config_from(values, config)
    out = out or _folder_of(Path(config), chosen.rounds)
    try:
        with _training_bar() as progress:
            train_rounds(chosen, out, resume, progress, typer.echo)
    except KeyboardInterrupt:
        if os.environ.get("RANK", "0") == "0":  # of several processes, under torchrun
            typer.echo(f"interrupted: {_how_to_go_on(chosen, out)}", err=True)
        raise
    except ModuleNotFoundError as error:  # of what only some backbones need
        raise OSError(str(error)) from error
    except (MemoryError, OutOfMemoryError) as error:
        raise OSError(
            f"out of memory with batches of {chosen.batch} hands in {chosen.views} views of "
            f"{chosen.model.estimator.image_size} px: lower batch, views or model.estimator.image_size, and train in "
            f"another folder ({str(error).partition('. ')[0]})"
        ) from error


def _how_to_go_on(config: TrainConfig, out: Path) -> str:
    from hamuco.training.checkpoint import load_checkpoint
    from hamuco.training.keeper import LAST

    kept = max(out.glob(f"**/{LAST}"), key=lambda path: path.stat().st_mtime, default=None)
    if kept is None:
        return (
            f"nothing was saved yet; checkpoints come every {config.run.checkpoint_every} steps (run.checkpoint_every)"
        )
    try:
        return f"with --resume it goes on after step {load_checkpoint(kept).step} of {config.steps}, from {kept}"
    except (ValueError, OSError):
        return f"the last checkpoint is {kept}"


def _folder_of(config: Path, rounds: int) -> Path:
    """Of the training that wrote it; else one with its name.

    Raises:
        ValueError: several rounds are wanted, and it is of one, whose sources are not those of the first.
    """
    from hamuco.training.curves import LOG
    from hamuco.training.keeper import CONFIG, LAST

    folder = config.parent
    of_rounds = (folder / "round-1").exists()
    of_one = any((folder / name).exists() for name in (LAST, LOG))
    if config.name == CONFIG and (folder / "crops").is_dir():  # cut before there is a log; or somebody's own
        of_one = of_one or _is_complete(config)
    if config.name != CONFIG or not (of_rounds or of_one):
        return Path("runs") / config.stem
    if rounds > 1 and not of_rounds:
        raise ValueError(
            f"{config} is of one round, not of a whole training of {rounds}: go on with {folder.parent / CONFIG}, or train "
            "anew in another folder, with --out"
        )
    return folder


def _is_complete(config: Path) -> bool:
    """As a training writes it, and hardly anybody else."""
    from hamuco.training.config import config_text, load_config
    from hamuco.training.config_file import ConfigError

    try:
        return config.read_text(encoding="utf-8") == config_text(load_config(str(config)))
    except ConfigError:
        return False


@contextmanager
def _training_bar() -> Iterator[Callable[[str, int, int], None]]:
    """A bar on a terminal, elsewhere a line now and then; call it with what is done, how much of it and of how much."""
    console = Console(stderr=True)
    if not console.is_terminal:
        lines: dict[str, Lines] = {}

        def say(what: str, done: int, total: int) -> None:
            if not what.startswith("training"):  # whose steps are told of when they are logged
                lines.setdefault(what, Lines(what))(done, total)

        yield say
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)
        doing = ""

        def show(what: str, done: int, total: int) -> None:
            nonlocal doing
            kind = what.partition(",")[0]
            if kind != doing:
                bar.reset(task)
                doing = kind
            bar.update(task, description=what, completed=done, total=total)

        yield show
