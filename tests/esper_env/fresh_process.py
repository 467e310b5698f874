"""Run by the tests in a fresh process: prints digests that must agree with those of the test's own process.

python fresh_process.py STATE_FILE
"""

import json
import sys
import warnings
from pathlib import Path

import gymnasium

assert "esper_env" not in sys.modules
gymnasium.make("esper_env:Esper/Tiny-v0", dataset="synthetic")  # the id alone brings the package in

sys.path.insert(0, str(Path(__file__).parent))
from rollouts import MODES, NUM_ENVS, SHORT, SMALL, STEPS, digest, record, vector_record  # noqa: E402


def single(state):
    env = gymnasium.make("esper_env:Esper/Tiny-v0", **SMALL)
    rollout = digest(record(env, 30))
    env.unwrapped.set_state(state)
    return {"rollout": rollout, "continuation": digest([env.unwrapped.step(0) for _ in range(10)])}


def asynchronous(context, mode):
    envs = gymnasium.make_vec(
        "esper_env:Esper/Tiny-v0",
        num_envs=NUM_ENVS,
        vectorization_mode="async",
        vector_kwargs={"context": context, "autoreset_mode": gymnasium.vector.AutoresetMode(mode)},
        **SHORT,
    )
    out = digest(vector_record(envs, STEPS, mode=mode))
    envs.close()
    return out


def main():
    warnings.simplefilter("error")
    out = single(Path(sys.argv[1]).read_bytes())  # first: what a fork inherits it need not load again
    out |= {f"fork {mode}": asynchronous("fork", mode) for mode in MODES}
    out["spawn SameStep"] = asynchronous("spawn", "SameStep")
    print(json.dumps(out))


if __name__ == "__main__":
    main()
