"""Turns episode records into text."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

from esper_agents.runner import EpisodeRecord
from esper_env.leyline import Op, Stage
from esper_env.leyline.lifecycle import OCCUPIED


@dataclass(frozen=True)
class Span:
    """Epochs that a slot spent in one stage, `first` to `last`, counted from 1 and inclusive."""

    stage: Stage
    fading: bool
    """BLENDING on the way out, after a PRUNE."""
    blueprint: str | None
    first: int
    last: int

    @property
    def name(self) -> str:
        """The stage in lower case, or "fading"."""
        return "fading" if self.fading else self.stage.name.lower()


def spans(record: EpisodeRecord, slot: int) -> list[Span]:
    """Return the stages that the slot with this index went through, in order."""
    keys, fading = [], False
    for action, stages, blueprints in zip(record.actions, record.stages, record.blueprints, strict=True):
        pruned = action.op is Op.PRUNE and action.slot == record.slots[slot]
        fading = stages[slot] == Stage.BLENDING and (fading or pruned)
        keys.append((Stage(stages[slot]), fading, int(blueprints[slot])))
    found, epoch = [], 0
    for (stage, faded, blueprint), group in groupby(keys):
        length = len(list(group))
        name = None if blueprint < 0 else record.blueprint_names[blueprint]
        found.append(Span(stage, faded, name, epoch + 1, epoch + length))
        epoch += length
    return found


def slot_life(record: EpisodeRecord, slot: int) -> str:
    """Return a line with the lives of the seeds in one slot: each stage with the epoch it began."""
    lives = []
    for occupied, group in groupby(spans(record, slot), key=lambda span: span.stage in OCCUPIED):
        life = list(group)
        if occupied:
            lives.append(f"{life[0].blueprint}: " + ", ".join(f"{span.name} {span.first}" for span in life))
        elif life[0].stage is Stage.PRUNED and lives:
            end = "removed unfinished" if life[0].first == len(record.actions) else "pruned"
            lives[-1] += f", {end} {life[0].first}"
    return "; ".join(lives) or "never used"


def summary(record: EpisodeRecord) -> str:
    """Return what came of an episode, in a few lines."""
    final = record.final
    lines = [
        f"episode with seed {record.seed}: {len(record.actions)} epochs",
        f"  return     {record.episode_return:+.4f}",
        f"  accuracy   {_accuracy(record)}",
        f"  parameters {final['params']:,} (host {final['host_params']:,}, growth {final['growth']:+.1%})",
    ]
    if record.settled:
        counts = f"germinated {final['germinated']}, fossilised {final['fossilized']}, pruned {final['pruned']}"
        lines += [f"  seeds      {counts}", f"  compute    {final['flops_total']:.3g} FLOPs"]
        if final["rollbacks"]:
            lines.append(f"  rollbacks  {final['rollbacks']}")
    if final["error_code"]:
        lines.append(f"  FAILED with error code {final['error_code']}: its figures stand for nothing")
    width = max(len(slot) for slot in record.slots)
    lines += [f"  {slot:<{width}}  {slot_life(record, i)}" for i, slot in enumerate(record.slots)]
    return "\n".join(lines)


def _accuracy(record: EpisodeRecord) -> str:
    final = record.final
    if not record.settled:
        return f"{final['val_accuracy']:.2%} (validation); truncated, so the committed network was not measured"
    return f"committed {final['committed_accuracy']:.2%} (validation), test {final['test_accuracy']:.2%}"
