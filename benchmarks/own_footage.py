"""Does training on unlabeled footage of one's own make HaMuCo better on real hands?

    python benchmarks/own_footage.py FOLDER [--steps N]

Three real clips are imported, labelled and learned from, by the commands that a user would type, with the configuration
my-rig: hands that hold a board before four cameras (51 sets), the same with another four cameras (48 sets), and a hand
alone before two (252 sets). The clip of free hands, which is the first's cameras but other footage, is left for what
follows: the leave-one-view-out error on it, before and after.

What is in FOLDER already is not made again; an interrupted training goes on.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from importlib import resources
from pathlib import Path

import tomlkit
from footage import make_recording

from hamuco.training.datasets.footage import FOUR_CAMERAS, TWO_CAMERAS, Clip

BOARD = Clip(
    folder=FOUR_CAMERAS.folder,
    calibration="camera_array.toml",
    video="board_cam_{camera}.mp4",
    timestamps="timestamps_board.csv",
)
MIRROR_BOARD = Clip(
    folder="caliscope-4cam-mirror-board",
    calibration="camera_array.toml",
    video="cam_{camera}.mp4",
    timestamps="timestamps.csv",
)
CLIPS = {"board": BOARD, "mirror-board": MIRROR_BOARD, "two-cameras": TWO_CAMERAS}


def hamuco(*arguments: object) -> None:
    """Run a command as a user would."""
    print("hamuco", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "hamuco.app.cli", *map(str, arguments)], check=True)


def configuration(recordings: list[Path], steps: int) -> str:
    """The package's configuration for a rig of one's own, with these recordings in the place of its one."""
    text = (resources.files("hamuco.training") / "configs" / "my-rig.toml").read_text(encoding="utf-8")
    document = tomlkit.parse(text)
    rendered = [source for source in document["sources"] if "synthetic" in source]
    own = [{"recording": str(path), "share": 1.0} for path in recordings]
    document["sources"] = [*own, *rendered]
    document["steps"] = steps
    return tomlkit.dumps(document)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=3000, help="of 8 hands in 4 views")
    options = parser.parse_args()
    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    recordings = [folder / name for name in CLIPS]
    for recording, clip in zip(recordings, CLIPS.values(), strict=True):
        if not recording.exists():
            make_recording(clip, recording)
        hamuco("label", recording)
    config, training, bundle = folder / "my-rig.toml", folder / "training", folder / "my-rig"
    config.write_text(configuration(recordings, options.steps), encoding="utf-8")
    hamuco("train", config, "--out", training, "--resume")
    if not bundle.exists():
        hamuco("export", training / "last.pt", bundle)
    for weights in ((), (bundle,)):
        subprocess.run([sys.executable, Path(__file__).parent / "leave_one_out.py", *weights], check=True)


if __name__ == "__main__":
    main()
