"""Fixtures of the environment's tests."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from rollouts import grow_to, tiny

from esper_env.leyline import Stage

settings.register_profile("esper", deadline=None, derandomize=True, max_examples=20)
settings.load_profile("esper")


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny tensors: more threads only get in each other's way."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def in_a_fresh_process(tmp_path_factory):
    """What `fresh_process.py` prints, run under another hash seed, and the state it was given.

    Its first `import` of the package is by the id "esper_env:Esper/Tiny-v0".
    """
    env = tiny()
    env.reset(seed=8)
    for slot in ("r0c0", "r0c1"):
        grow_to(env, Stage.BLENDING, slot, "conv_light")
    path = tmp_path_factory.mktemp("fresh") / "state"
    path.write_bytes(env.get_state())
    result = subprocess.run(
        [sys.executable, Path(__file__).with_name("fresh_process.py"), path],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": "4242"},
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout) | {"state": env.get_state()}
