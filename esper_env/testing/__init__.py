"""Conformance checks: run your own host, blueprint or task through the rules that Esper's promises rest on.

Three functions, for a test of yours or for the interpreter::

    >>> from esper_env.kasmina import ConvHost
    >>> from esper_env.testing import check_blueprint, check_host
    >>> check_host(lambda: ConvHost(3, [4, 8], [3, 3]), (3, 12, 12))
    >>> check_blueprint("conv_light", channels=(4,))

Each returns ``None`` when every rule holds and raises `ConformanceError` at the first that does not, with
what was seen and how to mend it. They are small (no data set, a few optimiser steps), so they can run in
every build of your project. `check_task` runs whole short episodes and takes some seconds.

What is certified
    - *Shapes*: a host's activations are (N, C, H, W) at each boundary, its logits (N, classes); a blueprint
      keeps the shape of its input.
    - *Composition*: a host's ``run`` from boundary to boundary gives, in every bit, what ``forward`` gives,
      and neither it nor a blueprint writes to its input. A seed that trains behind the host must not move it.
    - *Identity at birth*: a new seed changes nothing at any alpha, and with the styles add and gate the host
      keeps its whole gradient.
    - *Live gradients*: every parameter tensor moves within two optimiser steps, weight decay aside.
    - *Exact removal*: a host whose seed was removed is, in every bit, one that never had it.
    - *Save and load*: the state dict carries everything that the output depends on.
    - *Determinism*: the same input gives the same output, and no forward pass draws from a generator of
      torch, NumPy or Python.
"""

from esper_env.testing._common import ALPHAS, ConformanceError
from esper_env.testing.blueprints import check_blueprint
from esper_env.testing.hosts import check_host
from esper_env.testing.tasks import check_task

__all__ = ["ALPHAS", "ConformanceError", "check_blueprint", "check_host", "check_task"]
