"""The single environment: translates between Gymnasium and an `Episode`."""

from __future__ import annotations

import logging
import operator
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, SupportsFloat

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray

from esper_env.accounting import ROLLBACK_PENALTY, Rent
from esper_env.info import Tally, build_info, final_info, total_params
from esper_env.leyline import WAIT, Action, ObservationLayout, SlotFacts, Style, action_table, legal_mask
from esper_env.observation import History, build_observation
from esper_env.settings import Settings
from esper_env.state import StateError, pack, unpack
from esper_env.tasks import Instance
from esper_env.tolaria.episode import Episode, EpochReport, Settlement, Structure
from esper_env.tolaria.governor import MAX_ROLLBACKS

logger = logging.getLogger(__name__)

Observation = NDArray[np.float32]
RESET_OPTIONS = ("instance", "structure")
STEP_FAILED = 1
"""`error_code` of an episode that an exception ended."""


@contextmanager
def _own_torch_mode() -> Iterator[None]:
    """One intra-op thread and autograd on, whatever the caller has set; the caller's settings afterwards."""
    threads = torch.get_num_threads()
    if threads != 1:
        torch.set_num_threads(1)
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        if threads != 1:
            torch.set_num_threads(threads)


class EsperEnv(gymnasium.Env[Observation, np.int64]):
    """DOCSTRING"""

    metadata = {"render_modes": ["ansi", "rgb_array"], "render_fps": 4}  # noqa: RUF012

    def __init__(self, task: str, *, render_mode: str | None = None, **arguments: Any) -> None:
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise ValueError(f"render_mode={render_mode!r}: choose one of {self.metadata['render_modes']} or None")
        self.settings = Settings.resolve(task=task, **arguments)
        self.render_mode = render_mode
        self._arguments = {"task": task, "render_mode": render_mode, **arguments}
        s = self.settings
        self.action_table: tuple[Action, ...] = action_table(s.slots, s.blueprints, s.styles, s.tempos)
        self.layout = ObservationLayout(s.slots)
        self.action_space = gymnasium.spaces.Discrete(len(self.action_table))
        self.observation_space = gymnasium.spaces.Box(-1.0, 1.0, (self.layout.size,), np.float32)
        self._episode: Episode | None = None
        self._done = False

    # -- Gymnasium -----------------------------------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode with a freshly initialised host.

        Args:
            seed: restarts the environment's random stream; ``None`` continues it.
            options: ``instance`` pins fields of the episode's instance, ``structure`` is a list of
                ``{"slot", "blueprint", "style"}`` whose seeds are there, FOSSILIZED, from the start.

        Raises:
            ValueError: an unknown option, instance field, slot, blueprint or style.
        """
        unknown = sorted(set(options or {}) - set(RESET_OPTIONS))
        if unknown:
            raise ValueError(f"unknown reset options {unknown}; choose from {list(RESET_OPTIONS)}")
        structure = self.settings.structure((options or {}).get("structure") or ())
        super().reset(seed=seed)
        instance = self.settings.task.draw(self.np_random)
        instance = instance.pinned((options or {}).get("instance") or {})
        episode_seed = int(self.np_random.integers(2**63 - 1))
        with _own_torch_mode():
            self._begin(instance, episode_seed, structure)
        self._value = 1.0 / self._data.num_classes
        self._report: EpochReport | None = None
        self._last_observation = self._observe()
        info = self._info(legal=True)
        info["instance"] = instance.to_array()
        return self._last_observation.copy(), info

    def step(
        self, action: np.int64 | int
    ) -> tuple[Observation, SupportsFloat, bool, bool, dict[str, Any]]:
        """Apply an action, train one epoch, evaluate; see the class's docstring.

        Raises:
            RuntimeError: before the first reset, or after the episode's end.
            ValueError: `action` is not one whole number of the action space.
        """
        if self._episode is None or self._done:
            raise RuntimeError("this episode is over or has not begun: call reset() first")
        asked = self._decode(action)
        mask = self.action_masks()
        legal = bool(mask[asked])
        executed = self.action_table[asked] if legal else WAIT
        with _own_torch_mode():
            try:
                reward, info = self._advance(executed, legal)
            except Exception as error:  # one broken episode must not end the others of a vector environment
                reward, info = self._fail(error)
        return self._last_observation.copy(), reward, self._done, False, info

    def render(self) -> Any:
        """Return the schematic of the present state: text, or an RGB picture (H, W, 3) uint8."""
        from esper_env import rendering  # noqa: PLC0415 - matplotlib only when something is drawn

        if self.render_mode is None:
            gymnasium.logger.warn("render() needs render_mode='ansi' or 'rgb_array' at construction")
            return None
        return rendering.render(self)

    # -- beyond Gymnasium ----------------------------------------------------------------------------

    def action_masks(self) -> NDArray[np.bool_]:
        """Return which actions are legal now, bool (A,): what sb3-contrib's maskable algorithms ask for."""
        if self._episode is None:
            raise RuntimeError("no episode has begun: call reset() first")
        if self._done:
            return np.arange(len(self.action_table)) == 0
        facts = self.slot_facts
        return np.array(legal_mask(self.action_table, facts, strict_gates=self.settings.strict_gates), np.bool_)

    @property
    def slot_facts(self) -> Mapping[str, SlotFacts]:
        """What the legality of the present actions depends on, by slot."""
        return {name: slot.facts() for name, slot in self.episode.model.slots.items()}

    @property
    def episode(self) -> Episode:
        """The running episode."""
        if self._episode is None:
            raise RuntimeError("no episode has begun: call reset() first")
        return self._episode

    @property
    def provenance(self) -> dict[str, Any]:
        """Where the present episode's numbers come from; JSON-able."""
        return {
            "task": self.settings.task.name,
            "dataset": self._data.name,
            "source": self._data.source,
            "digest": self._data.digest,
            "instance": asdict(self.instance),
            "episode_seed": self.episode.seed,
            "structure": [asdict(s) for s in self._structure],
            "torch": torch.__version__,
            "error": self._error,
        }

    def get_state(self) -> bytes:
        """Return the whole state as bytes (safetensors and JSON, no pickle), at any step and stage."""
        tensors, values = self.episode.state()
        values = {
            "arguments": self._fingerprint(),
            "digest": self._data.digest,
            "episode": values,
            "instance": asdict(self.instance),
            "structure": [asdict(s) for s in self._structure],
            "np_random": self.np_random.bit_generator.state,
            "history": self.history.state(),
            "tally": vars(self.tally),
            "value": self._value,
            "done": self._done,
            "error": self._error,
        }
        tensors["observation"] = torch.from_numpy(self._last_observation)
        return pack(tensors, values)

    def set_state(self, state: bytes) -> None:
        """Restore exactly what `get_state` returned, here or in another process.

        Raises:
            StateError: the bytes are foreign or damaged, or come from an environment with other arguments or
                other data. This environment is then as it was.
        """
        tensors, values = unpack(state)
        mine, theirs = self._fingerprint(), values["arguments"]
        if mine != theirs:
            different = sorted(k for k in {*mine, *theirs} if mine.get(k) != theirs.get(k))
            detail = ", ".join(f"{k} {theirs.get(k)!r} there, {mine.get(k)!r} here" for k in different)
            raise StateError(f"the state comes from an environment with other arguments: {detail}")
        if self.settings.load().digest != values["digest"]:
            raise StateError("the state comes from an environment with other data: the digests differ")
        structure = tuple(
            Structure(s["slot"], s["blueprint"], Style(s["style"])) for s in values["structure"]
        )
        with _own_torch_mode():
            self._begin(Instance(**values["instance"]), values["episode"]["seed"], structure)
            self.episode.load(tensors, values["episode"])
        self.np_random = np.random.Generator(np.random.PCG64())
        self.np_random.bit_generator.state = values["np_random"]
        self.history = History.from_state(values["history"])
        self.tally = Tally(**values["tally"])
        self._value, self._done, self._error = values["value"], values["done"], values["error"]
        self._last_observation = tensors["observation"].numpy().copy()
        self._report = None

    def fork(self) -> EsperEnv:
        """Return an independent copy of this environment, in the same state."""
        copy = EsperEnv(**self._arguments)
        copy.set_state(self.get_state())
        return copy

    # -- inside --------------------------------------------------------------------------------------

    def _begin(self, instance: Instance, episode_seed: int, structure: Sequence[Structure]) -> None:
        settings = self.settings
        self._data = settings.load()
        self._episode = Episode(
            lambda: settings.task.host(instance),
            self._data,
            settings.episode_config(instance, self._data),
            episode_seed,
            structure,
        )
        self.instance, self._structure = instance, tuple(structure)
        self.rent = Rent(settings, instance)
        self.history, self.tally = History(), Tally(peak_params=total_params(self._episode.model))
        self._done, self._error = False, None

    def _decode(self, action: Any) -> int:
        if isinstance(action, np.ndarray) and action.size == 1 and action.ndim == 0:
            action = action.item()
        try:
            index = operator.index(action)
        except TypeError:
            raise ValueError(
                f"an action must be one whole number from 0 to {len(self.action_table) - 1}, got {action!r}"
            ) from None
        if not 0 <= index < len(self.action_table):
            raise ValueError(f"action {index}: choose one from 0 to {len(self.action_table) - 1}")
        return index

    def _advance(self, executed: Action, legal: bool) -> tuple[float, dict[str, Any]]:
        episode = self.episode
        self._report = report = episode.step(executed)
        score = report.evaluation.score
        self.history.record(report, executed.op, legal)
        self.tally.record(executed.op, legal, total_params(episode.model), score.accuracy)
        self._done = episode.epoch >= self.settings.episode_length or episode.rollbacks >= MAX_ROLLBACKS
        settlement: Settlement | None = None
        accuracy = score.accuracy
        if self._done:
            settlement = episode.settle()
            accuracy = settlement.validation.accuracy
        value = accuracy - self.rent.total(episode.model)
        reward = value - self._value - ROLLBACK_PENALTY * (report.panic is not None)
        self._value = value
        self._last_observation = self._observe()
        info = self._info(legal)
        if settlement is not None:
            info |= final_info(episode, settlement, self.tally)
        return reward, info

    def _fail(self, error: Exception) -> tuple[float, dict[str, Any]]:
        """End the episode at the value of an untrained host; its settlement was never measured."""
        logger.exception("a step of %s failed; its episode ends", self.settings.task.name)
        self._error = f"{type(error).__name__}: {error}"
        self._done = True
        value = 1.0 / self._data.num_classes
        reward, self._value = value - self._value, value
        self._report = None
        info = self._info(legal=True)
        info["error_code"] = STEP_FAILED
        info |= final_info(self.episode, Settlement.unmeasured(), self.tally)
        return reward, info

    def _observe(self) -> Observation:
        return build_observation(
            self.layout,
            self.episode.model,
            self.history,
            self.rent,
            epoch=self.episode.epoch,
            episode_length=self.settings.episode_length,
            classes=self._data.num_classes,
            blueprints=self.settings.blueprints,
        )

    def _info(self, legal: bool) -> dict[str, Any]:
        s = self.settings
        mask = self.action_masks().astype(np.int8)
        return build_info(
            self.episode,
            s.blueprints,
            s.slots,
            self.rent,
            mask,
            report=self._report,
            value=self._value,
            legal=legal,
        )

    def _fingerprint(self) -> dict[str, Any]:
        """The arguments that a state depends on, JSON-able."""
        s = self.settings
        fields = {k: v for k, v in vars(s).items() if k not in ("task", "data")}
        listed = {k: [str(x) for x in v] if isinstance(v, tuple) else v for k, v in fields.items()}
        return {"task": s.task.name, "dataset": s.data.name, **listed}
