"""Real footage without truth: what the other views say, seen from the view that was left out.

    python benchmarks/leave_one_out.py [BUNDLE] [RECORDING]      # hamuco-s on the clip of four cameras

`hamuco evaluate BUNDLE RECORDING` measures and prints the same of any recording, and saves it. This brings the clip.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from footage import make_recording
from rich.console import Console

from hamuco.app.left_out_tables import print_left_out
from hamuco.app.offline import progress_bar
from hamuco.capture.recording import Recording
from hamuco.engine.bundle import HAMUCO_S, load_bundle
from hamuco.engine.hamuco import HaMuCoNetworks
from hamuco.training.datasets.footage import FOUR_CAMERAS
from hamuco.training.hamuco_methods import HaMuCoMethods
from hamuco.training.leave_one_out import leave_one_out
from hamuco.training.methods import default_methods


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", type=Path, nargs="?", default=HAMUCO_S, help="trained networks")
    parser.add_argument("recording", type=Path, nargs="?", help="of three cameras or more")
    arguments = parser.parse_args()
    trained = HaMuCoMethods(HaMuCoNetworks(load_bundle(arguments.bundle)))
    with tempfile.TemporaryDirectory() as folder:
        path: Path | None = arguments.recording
        clip = Path(folder) / FOUR_CAMERAS.folder
        recording = make_recording(FOUR_CAMERAS, clip) if path is None else Recording.open(path)
        with progress_bar(recording.path.name) as tell:
            measured = leave_one_out(recording, lambda: [*default_methods(), *trained()], progress=tell)
    print_left_out(measured, Console(width=110))


if __name__ == "__main__":
    main()
