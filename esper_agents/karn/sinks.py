"""TensorBoard and Weights & Biases, fed by the same events as the log."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from esper_agents.karn.metrics import LAYOUT, Metrics
from esper_agents.karn.reading import parse
from esper_agents.karn.timeline import timeline
from esper_env.leyline.events import EpisodeEnd, RunStart
from esper_env.nissa import Record


class TensorBoardSink:
    """Scalars in the groups ``env``, ``seed``, ``policy``, ``value`` and ``time``, hyperparameters, and timelines.

    Args:
        folder: of the run; TensorBoard's event files go right into it.
    """

    name = "tensorboard"

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        self._writer = SummaryWriter(self._folder, flush_secs=5)
        self._metrics = Metrics()

    def write(self, records: Sequence[Record]) -> None:
        """Add what the records say."""
        for record in records:
            time_s, event = parse(record)
            if isinstance(event, RunStart) and event.done_steps and self._metrics.snapshot.header is None:
                self._writer.close()  # a resumed run: what was drawn of later rounds is run again
                self._writer = SummaryWriter(self._folder, purge_step=event.done_steps + 1, flush_secs=5)
            for tag, value in self._metrics.fold(time_s, event):
                self._scalar(tag, value, time_s)
            if isinstance(event, RunStart):
                self._begin(event)
            elif isinstance(event, EpisodeEnd) and event.env == len(self._metrics.snapshot.envs) - 1:
                steps = self._metrics.snapshot.steps
                picture = timeline(self._metrics.snapshot)
                self._writer.add_image("seed/timelines", picture, steps, dataformats="HWC")

    def _scalar(self, tag: str, value: float, time_s: float) -> None:
        self._writer.add_scalar(tag, value, self._metrics.snapshot.steps, walltime=time_s)

    def _begin(self, header: RunStart) -> None:
        charts = {page: {title: ["Multiline", tags] for title, tags in c.items()} for page, c in LAYOUT.items()}
        self._writer.add_custom_scalars(charts)
        fields = {k: v for k, v in header.__dict__.items() if k != "config"}
        text = json.dumps(fields, indent=2, default=dict)
        self._writer.add_text("run", f"```json\n{text}\n```", header.done_steps)
        # add_hparams would start a run beside this one
        for summary in hparams(_flat(header.config), {"env/return": 0.0}):  # type: ignore[no-untyped-call]
            self._writer._get_file_writer().add_summary(summary)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Bring everything to the file."""
        self._writer.close()


class WandbSink:
    """Weights & Biases: TensorBoard's scalars over the same steps. Its own settings apply, as ``WANDB_MODE=offline``.

    Args:
        folder: of the run.

    Raises:
        ValueError: the package is not installed, there is no key, or the service cannot be reached.
    """

    name = "wandb"

    def __init__(self, folder: Path) -> None:
        if find_spec("wandb") is None:
            raise ValueError("--wandb needs the package wandb: pip install -e '.[wandb]'")
        import wandb  # noqa: PLC0415 - optional

        try:
            self._run: Any = wandb.init(project="esper", name=folder.name, dir=str(folder))
        except wandb.errors.Error as error:
            raise ValueError(f"--wandb: {error} WANDB_MODE=offline does without a login and a network.") from error
        self._metrics = Metrics()

    def write(self, records: Sequence[Record]) -> None:
        """Log what the records say."""
        for record in records:
            time_s, event = parse(record)
            if scalars := dict(self._metrics.fold(time_s, event)):
                self._run.log(scalars, step=self._metrics.snapshot.steps)
            if isinstance(event, RunStart):
                self._run.config.update(_flat(event.config), allow_val_change=True)

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


def _flat(config: Any) -> dict[str, Any]:
    """A configuration as hyperparameters: numbers, texts and booleans."""
    plain = bool | int | float | str
    return {k: v if isinstance(v, plain) else json.dumps(v) for k, v in config.items() if v is not None}
