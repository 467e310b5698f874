"""The single environment: translates between Gymnasium and an `Episode`."""

from __future__ import annotations

import copy
import logging
import operator
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, SupportsFloat

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray

from esper_env.accounting import ROLLBACK_PENALTY, Rent
from esper_env.info import Tally, build_info, final_info, total_params
from esper_env.kasmina import native
from esper_env.leyline import WAIT, Action, ObservationLayout, SlotFacts, Style, action_table, legal_mask
from esper_env.observation import History, build_observation
from esper_env.settings import Settings, arguments_there_are
from esper_env.state import StateError, pack, unpack
from esper_env.tasks import Instance, get_task
from esper_env.tolaria.episode import Episode, EpochReport, Settlement, Structure
from esper_env.tolaria.governor import MAX_ROLLBACKS
from esper_env.torch_mode import own_torch_mode

logger = logging.getLogger(__name__)

Observation = NDArray[np.float32]
RESET_OPTIONS = ("instance", "structure")
STEP_FAILED = 1
"""`error_code` of an episode that an exception ended."""
_OF_AN_EPISODE = {"_done", "_episode", "_error", "_last_observation", "_report", "_structure"}
_OF_AN_EPISODE |= {"data", "history", "instance", "rent", "tally", "value"}
"""Attributes that `set_state` restores."""
_UNFIT = (KeyError, TypeError, ValueError, AttributeError, RuntimeError)
"""What restoring a state of another version may raise."""


class EsperEnv(gymnasium.Env[Observation, np.int64]):
    """A convolutional network that trains while an agent edits its structure.

    ## Description
    A *host* network is trained on images, one epoch of `samples_per_epoch` images a step. At *slots*, named
    places between its layers, the agent may germinate *seeds*: small modules of some *blueprint* that train
    behind the host, are blended into it by a weight *alpha* from 0 to 1, and are then kept for good
    (FOSSILIZED) or pruned. Every seed is the identity at birth. An episode is one host from fresh weights to
    the last epoch; it is worth the accuracy of the network that was kept, less a rent on what was added.

    `docs/environment.md` has the life of a seed, the rule for each operation, and the meaning of every number
    of the observation and of the info.

    ## Action Space
    `Discrete(1 + S * (B * len(styles) * len(tempos) + 6))` for S slots and B blueprints; 40 by default.

    | index | action |
    | --- | --- |
    | 0 | WAIT |
    | then for each slot in turn: | |
    | first `B * len(styles) * len(tempos)` | GERMINATE, a blueprint in a style with a tempo |
    | +0 | ADVANCE: GERMINATED to TRAINING to BLENDING to HOLDING |
    | +1, +2, +3 | SET_ALPHA_TARGET to 0.5, 0.7, 1.0 |
    | +4 | FOSSILIZE |
    | +5 | PRUNE |

    `env.unwrapped.action_table[i]` is the `Action` of index i. What is legal is `info["action_mask"]`, int8
    (A,), at every reset and step, and `env.unwrapped.action_masks()`, bool (A,). WAIT is always legal. An
    illegal action does not raise: WAIT is executed in its place and `info["invalid_action"]` is True.

    ## Observation Space
    `Box(-1, 1, (23 + 35 * S,), float32)`; 128 numbers for 3 slots. Numbers are clipped to the box; what was
    not measured is 0.

    | index | meaning | min | max |
    | --- | --- | --- | --- |
    | 0 | share of the episode that is done | 0 | 1 |
    | 1-2 | validation loss / (2 ln C), validation accuracy | 0 | 1 |
    | 3-12 | the five losses and the five accuracies before, less the present one | -1 | 1 |
    | 13 | training accuracy - validation accuracy | -1 | 1 |
    | 14-15 | price of growth, growth | 0 | 1 |
    | 16-22 | the last action was executed as asked; its operation, one-hot | 0 | 1 |
    | 23 + 31 * s + 0-8 | slot s: its stage, one-hot | 0 | 1 |
    | 23 + 31 * s + 9-18 | size, alpha and its ramp, tempo, style of its seed | -1 | 1 |
    | 23 + 31 * s + 19-24 | the seed's effect on accuracy, measured by ablation, and its rent | -1 | 1 |
    | 23 + 31 * s + 25-28 | the seed's gradients: norm, health, change of health, fault | -1 | 1 |
    | 23 + 31 * s + 29-30 | epochs in this stage, age | 0 | 1 |
    | 23 + 31 * S + 4 * s + 0-3 | slot s: index of its blueprint as four bits -1/+1, lowest first | -1 | 1 |

    `env.unwrapped.layout.features()` names each number.

    ## Rewards
    The value of the network is V = validation accuracy (0..1) - rent * added / reference, where *added*
    counts alpha times the parameters of uncommitted seeds and all parameters of fossilised ones (forward
    FLOPs with `rent_on="flops"`). A step's reward is its change, V_t - V_{t-1} with V_0 = 1/C for C classes,
    less 0.1 for a rollback. At the last step all that is not fossilised is removed first, and V uses the
    whole validation split.

    The objective is undiscounted: use gamma = 1. The sum of the rewards is then V_T - 1/C - 0.1 * rollbacks,
    what the committed network is worth at the end, whatever path led there. A discount would turn accuracy
    on the way into income, so that never finishing a seed could pay more than keeping a good one.

    ## Starting State
    A host with fresh weights, all slots DORMANT. Tasks whose instance varies draw one per episode.

    ## Episode End
    *Terminated* after `episode_length` steps, after the third rollback, or when a step fails
    (`info["error_code"]` is then not 0 and the text is in `env.unwrapped.provenance["error"]`, and in
    `env.unwrapped.last_error` also after the next reset).
    *Truncated* never; a wrapper may do so, and the episode is then not settled.

    A rollback is the governor's answer to a loss or weight that is not finite, to accuracy that falls back to
    chance and to a loss that diverges: the last healthy state of the network returns, without the seeds that
    were not fossilised.

    ## Information
    Numbers and arrays of fixed shape, fresh at every call, never NaN; S values are in the order of `slots`.
    Every step: `action_mask`, `invalid_action`, `epoch`, `train_loss`, `train_accuracy`, `val_loss`,
    `val_accuracy`, `params`, `host_params`, `growth`, `rent`, `flops_train`, `flops_shadow`, `flops_eval`
    (cumulative), `stages`, `blueprints` (index, -1 for none), `alphas`, `contributions` and
    `contributions_measured`, `shapley` and `shapley_measured`, `rollback`, `value`, `error_code`.
    The reset adds `instance`. The last step of an episode that terminates adds `committed_accuracy`,
    `test_accuracy`, `test_loss`, `fossilized`, `pruned`, `germinated`, `invalid_actions`, `peak_params`,
    `flops_total`, `rollbacks` and `stability`.

    ## Arguments
    `gymnasium.make(id, ...)` takes these by name; `docs/environment.md` has their defaults.

    | argument | meaning |
    | --- | --- |
    | `dataset`, `data_root` | "auto", "cifar10", "fashion_mnist" or "synthetic"; a folder to look in first |
    | `slots`, `blueprints` | which of the host's boundaries get a slot; which blueprints can be germinated |
    | `styles`, `tempos` | ways to join a seed ("add", "gate", "multiply"); epochs of an alpha ramp |
    | `alpha_curve` | shape of the ramps: "linear", "cosine" or "sigmoid" |
    | `episode_length` | steps of an episode |
    | `samples_per_epoch`, `val_samples`, `batch_size` | images; `samples_per_epoch=None` is the whole split |
    | `host_lr`, `seed_lr` | learning rates; the task's if not given |
    | `rent`, `rent_on` | price of adding the reference size, in accuracy; on "params" or "flops" |
    | `device`, `precision` | "cpu" or "cuda:N"; "fp32" or "bf16" |
    | `strict_gates` | also ask for a measured gain before blending and fossilising |
    | `render_mode` | "ansi" (text), "rgb_array" (uint8 (540, 960, 3)) or None |

    ## Reset options
    `reset(options={"instance": {...}})` pins fields of the episode's `Instance`.
    `reset(options={"structure": [{"slot": ..., "blueprint": ..., "style": ...}, ...]})` starts with these
    seeds FOSSILIZED: the static twin of a grown network, trained by the same engine.

    ## Determinism
    The same seed and actions give bitwise equal observations, rewards and infos, alone or in any vector
    environment, in any process, on CPU in fp32 with one machine kind and torch version. `get_state` returns
    the whole state as bytes, `set_state` restores it exactly, `fork` makes an independent copy.

    ## Example
    >>> import gymnasium, esper_env
    >>> env = gymnasium.make("Esper/Tiny-v0", episode_length=10)
    >>> observation, info = env.reset(seed=0)
    >>> _ = env.action_space.seed(0)
    >>> terminated, total = False, 0.0
    >>> while not terminated:
    ...     action = env.action_space.sample(mask=info["action_mask"])
    ...     observation, reward, terminated, truncated, info = env.step(action)
    ...     total += reward
    >>> info["epoch"], info["invalid_actions"]
    (10, 0)
    >>> bool(abs(total - (info["value"] - 1 / 10)) < 1e-9)
    True

    ## Version History
    * v0: first version
    """

    metadata = {"render_modes": ["ansi", "rgb_array"], "render_fps": 4}  # noqa: RUF012

    def __init__(self, task: str, *, render_mode: str | None = None, **arguments: Any) -> None:
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise ValueError(f"render_mode={render_mode!r}: choose one of {self.metadata['render_modes']} or None")
        arguments_there_are(arguments)
        self.settings = Settings.resolve(task=task, **{**get_task(task).defaults, **arguments})
        self.render_mode = render_mode
        self.arguments = {"task": task, "render_mode": render_mode, **arguments}
        """What this environment was made with, without the defaults."""
        self.seconds: dict[str, float] = {}
        """Wall-clock seconds of the last step: "train", "evaluate" and "observe"."""
        self.last_error: str | None = None
        """What made the last episode that failed do so, also when the next one has begun."""
        s = self.settings
        self._native = s.device == "cpu" and s.precision == "fp32" and native.in_use() is not None
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
        with own_torch_mode():
            self._begin(instance, episode_seed, structure)
        self.value = 1.0 / self.data.num_classes
        self._report: EpochReport | None = None
        self._last_observation = self._observe()
        self._done = False
        info = self._info(legal=True)
        info["instance"] = instance.to_array()
        return self._last_observation.copy(), info

    def step(self, action: np.int64 | int) -> tuple[Observation, SupportsFloat, bool, bool, dict[str, Any]]:
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
        with own_torch_mode():
            try:
                reward, info = self._advance(executed, legal)
            except Exception as error:  # one broken episode must not end the others of a vector environment
                reward, info = self._fail(error)
            except BaseException:  # an interrupted epoch is neither done nor undone
                self._done = True
                raise
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
            only_wait: NDArray[np.bool_] = np.arange(len(self.action_table)) == 0
            return only_wait
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
    def observation(self) -> Observation:
        """The last observation: what goes on from `set_state` needs it."""
        return self._last_observation.copy()

    @property
    def done(self) -> bool:
        """Whether the episode has ended."""
        return self._done

    @property
    def provenance(self) -> dict[str, Any]:
        """Where the present episode's numbers come from; JSON-able."""
        episode_seed = self.episode.seed
        return {
            "task": self.settings.task.name,
            "dataset": self.data.name,
            "source": self.data.source,
            "digest": self.data.digest,
            "instance": asdict(self.instance),
            "episode_seed": episode_seed,
            "structure": [asdict(s) for s in self._structure],
            "torch": torch.__version__,
            "kernels": "native" if self._native else "torch",
            "error": self._error,
        }

    def get_state(self) -> bytes:
        """Return the whole state as bytes (safetensors and JSON, no pickle), at any step and stage."""
        tensors, values = self.episode.state()
        values = {
            "arguments": self._fingerprint(),
            "digest": self.data.digest,
            "episode": values,
            "instance": asdict(self.instance),
            "structure": [asdict(s) for s in self._structure],
            "np_random": self.np_random.bit_generator.state,
            "history": self.history.state(),
            "tally": vars(self.tally),
            "value": self.value,
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
        before = dict(vars(self))
        try:
            with own_torch_mode():
                self._restore(*unpack(state))
        except BaseException as error:
            vars(self).update(before)
            if isinstance(error, StateError) or not isinstance(error, _UNFIT):
                raise
            raise StateError(
                f"the state does not fit this version of esper_env: {type(error).__name__}: {error}"
            ) from error

    def fork(self) -> EsperEnv:
        """Return an independent copy of this environment, in the same state, as `copy.deepcopy` does."""
        return copy.deepcopy(self)

    def __getstate__(self) -> dict[str, Any]:
        """What copies and pickles are made of: the state as bytes in place of the running episode."""
        plain = {name: value for name, value in vars(self).items() if name not in _OF_AN_EPISODE}
        return plain | {"state": None if self._episode is None else self.get_state()}

    def __setstate__(self, values: dict[str, Any]) -> None:
        """Restore what `__getstate__` returned."""
        state = values.pop("state")
        vars(self).update(values, _episode=None, _done=False)
        if state is not None:
            self.set_state(state)

    # -- inside --------------------------------------------------------------------------------------

    def _restore(self, tensors: Mapping[str, torch.Tensor], values: Mapping[str, Any]) -> None:
        mine, theirs = self._fingerprint(), values["arguments"]
        if mine != theirs:
            different = sorted(k for k in {*mine, *theirs} if mine.get(k) != theirs.get(k))
            detail = ", ".join(f"{k} {theirs.get(k)!r} there, {mine.get(k)!r} here" for k in different)
            raise StateError(f"the state comes from an environment with other arguments: {detail}")
        if self.settings.load().digest != values["digest"]:
            raise StateError("the state comes from an environment with other data: the digests differ")
        structure = tuple(Structure(s["slot"], s["blueprint"], Style(s["style"])) for s in values["structure"])
        self._begin(Instance(**values["instance"]), values["episode"]["seed"], structure)
        self.episode.load(tensors, values["episode"])
        self.np_random = np.random.Generator(np.random.PCG64())
        self.np_random.bit_generator.state = values["np_random"]
        self.history = History.from_state(values["history"])
        self.tally = Tally(**values["tally"])
        self.value, self._done, self._error = values["value"], values["done"], values["error"]
        self._last_observation = tensors["observation"].numpy().copy()
        self._report = None

    def _begin(self, instance: Instance, episode_seed: int, structure: Sequence[Structure]) -> None:
        settings = self.settings
        self.data = settings.load()
        episode = Episode(
            lambda: settings.task.host(instance),
            self.data,
            settings.episode_config(instance, self.data),
            episode_seed,
            structure,
        )
        self._done = True  # until the caller has put the rest in place, too: it may be interrupted
        self._episode = episode
        self.instance, self._structure = instance, tuple(structure)
        self.rent = Rent(settings, instance)
        self.history, self.tally = History(), Tally(peak_params=total_params(episode.model))
        self._error = None

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
        start = time.perf_counter()
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
        evaluated = time.perf_counter()
        value = accuracy - self.rent.total(episode.model)
        reward = value - self.value - ROLLBACK_PENALTY * (report.panic is not None)
        self.value = value
        self._last_observation = self._observe()
        info = self._info(legal)
        if settlement is not None:
            info |= final_info(episode, settlement, self.tally)
        observe = time.perf_counter() - evaluated
        self.seconds = {"train": report.train_s, "evaluate": evaluated - start - report.train_s, "observe": observe}
        return reward, info

    def _fail(self, error: Exception) -> tuple[float, dict[str, Any]]:
        """End the episode at the value of an untrained host; its settlement was never measured."""
        logger.exception("a step of %s failed; its episode ends", self.settings.task.name)
        self._error = self.last_error = f"{type(error).__name__}: {error}"
        self._done = True
        value = 1.0 / self.data.num_classes
        reward, self.value = value - self.value, value
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
            classes=self.data.num_classes,
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
            value=self.value,
            legal=legal,
        )

    def _fingerprint(self) -> dict[str, Any]:
        """The arguments that a state depends on, JSON-able."""
        s = self.settings
        fields = {k: v for k, v in vars(s).items() if k not in ("task", "data")}
        listed = {k: [str(x) for x in v] if isinstance(v, tuple) else v for k, v in fields.items()}
        return {"task": s.task.name, "dataset": s.data.name, **listed}
