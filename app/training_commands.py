"""The commands around training: make labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hamuco.app.offline import progress_bar
from hamuco.capture.recording import Recording


def label(
    recording: Annotated[Path, typer.Argument(help="A recording; its labels will lie in its folder.")],
    openpose: Annotated[
        Path | None,
        typer.Option(help="Import OpenPose's JSON files from here, a folder for each camera.", show_default=False),
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
        try:
            with progress_bar("labelling") as progress:
                labels, name = label_recording(opened, hands, progress), "landmarks"
        except KeyboardInterrupt:
            typer.echo("interrupted: the same command goes on from here", err=True)
            raise
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
    typer.echo("Next: hamuco train, with this recording as a source")
