"""What is kept of a training while it runs: the log, validation figures, checkpoints."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from time import perf_counter

from hamuco.training.augment import PLAIN
from hamuco.training.batch import Batch, to_device
from hamuco.training.checkpoint import RESUME, Checkpoint, save_checkpoint
from hamuco.training.config import TrainConfig, config_text
from hamuco.training.curves import TrainingLog, draw_curves
from hamuco.training.loader import LoaderOptions, batches
from hamuco.training.networks.hamuco import HaMuCo
from hamuco.training.sources import Progress, prepare
from hamuco.training.validation import FIGURES, validate
from hamuco.training.whole_file import write_whole

LAST, BEST, CONFIG = "last.pt", "best.pt", "config.toml"

Tell = Callable[[str], None]
"""Is called with a line for the user."""


class Keeper:
    """Writes into the folder of a training; of several processes, the first one has it."""

    def __init__(self, config: TrainConfig, out: Path, network: HaMuCo, progress: Progress, tell: Tell) -> None:
        self._config, self._out, self._network = config, out, network
        self._progress, self._tell = progress, tell
        self._log: TrainingLog | None = None
        self._validation: list[Batch] = []
        self._best = math.inf
        self._sums: defaultdict[str, float] = defaultdict(float)  # since the last row of the log
        self._crops, self._steps, self._since = 0, 0, perf_counter()

    def begin(self, checkpoint: Checkpoint | None) -> None:
        """Before the first step. A training that begins anew is validated as it is.

        Raises:
            ValueError, OSError: a source of the validation cannot be read, or what decides is not known of it.
        """
        config = self._config
        write_whole(self._out / CONFIG, config_text(config).encode(), RESUME)
        size = config.model.estimator.image_size
        sources = [
            prepare(one, size, config.views, self._out, True, self._progress) for one in config.validation.sources
        ]
        if sources:
            options = LoaderOptions(
                batch=config.batch, views=config.views, size=size, seed=config.seed, workers=config.run.workers
            )
            with closing(batches(sources, options, PLAIN)) as endless:
                for batch in islice(endless, config.validation.batches):
                    self._validation.append(batch)
                    self._progress("reading validation data", len(self._validation), config.validation.batches)
        self._best = math.inf if checkpoint is None else checkpoint.best
        self._log = TrainingLog(self._out, 0 if checkpoint is None else checkpoint.step)
        if checkpoint is None and sources:
            figures = self._validate()
            decides = config.validation.best
            if math.isnan(figures[decides]):
                known = ", ".join(name for name in FIGURES if not math.isnan(figures[name])) or "none"
                raise ValueError(
                    f'validation.best is "{decides}", but of the validation\'s hands are known only: {known}. Choose one '
                    "of these, or sources with truth"
                )
            if config.start.weights is not None:  # it may never be better than that
                self._best = figures[decides]
            self._log.write({"step": 0, **figures})
            self._tell(_line(0, config.steps, figures))
        self._since = perf_counter()  # the first row's rate counts from here

    def after_step(
        self, done: int, losses: dict[str, float], crops: int, state: Callable[[], Checkpoint], stop: Callable[[], bool]
    ) -> bool:
        """Keep what is due.

        Args:
            done: how many steps were made.
            losses: of the last one, by their names.
            crops: how many went into it.
            state: of the training, all but its best figure.
            stop: whether the training is to end before its last step.

        Returns:
            Whether it is; everything is saved then.
        """
        config, last = self._config, done == self._config.steps
        for name, value in losses.items():
            self._sums[name] += value
        self._steps, self._crops = self._steps + 1, self._crops + crops
        rate = self._crops / (perf_counter() - self._since)
        self._progress(f"training, loss {losses['total']:.3f}, {rate:.0f} crops/s", done, config.steps)

        best = False
        validating = bool(self._validation) and (last or done % config.validation.every == 0)
        if validating or last or done % config.run.log_every == 0:
            row = {"step": done, "learning_rate": config.rate(done - 1), "crops_per_s": rate}
            row |= {name: value / self._steps for name, value in self._sums.items()}
            if validating:
                figures = self._validate()
                best = figures[config.validation.best] < self._best
                self._best = min(self._best, figures[config.validation.best])
                row |= figures
            assert self._log is not None
            self._log.write(row)
            self._tell(_line(done, config.steps, row) + (", the best so far" if best else ""))
            self._sums.clear()
            self._steps, self._crops, self._since = 0, 0, perf_counter()
        stopping = not last and stop()
        if best or last or stopping or done % config.run.checkpoint_every == 0:
            began = perf_counter()
            checkpoint = replace(state(), best=self._best)
            if best:  # first: a training that goes on from LAST takes its best figure for saved
                save_checkpoint(self._out / BEST, checkpoint)
            save_checkpoint(self._out / LAST, checkpoint)
            draw_curves(self._out)
            self._since += perf_counter() - began
        return stopping

    def close(self) -> None:
        if self._log is not None:
            self._log.close()

    def _validate(self) -> dict[str, float]:
        device = next(self._network.parameters()).device
        began = perf_counter()
        batches = (to_device(batch, device) for batch in self._validation)
        loss = self._config.loss
        figures = validate(self._network, batches, loss.calibrated, loss.weights.refine)
        self._since += perf_counter() - began
        return figures


def _line(done: int, steps: int, row: Mapping[str, float]) -> str:
    said = [f"step {done} of {steps}"]
    if "total" in row:
        said.append(f"loss {row['total']:.4f}, {row['crops_per_s']:.0f} crops/s")
    known = {name: row[name] for name in FIGURES if math.isfinite(row.get(name, math.nan))}
    for kind, form in (("_mpjpe_mm", "{:.1f} mm"), ("_2d", "{:.4f} of a crop in 2D")):
        own = [
            f"{name.removesuffix(kind)} {form.format(value)}"
            for name, value in known.items()
            if name.endswith(kind) and "_pa_" not in name
        ]
        if own:
            said.append(", ".join(own))
    return "; ".join(said)
