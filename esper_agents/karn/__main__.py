"""Look at a run: ``python -m esper_agents.karn {sanctum,overwatch,sql,replay} ...``."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import tyro
from tyro.conf import Positional

from esper_agents.flight import RecordingError
from esper_agents.karn.reading import RunError
from esper_env import DataNotFoundError

Run = Positional[Path]

NICENESS = 10
"""Of a screen: where training wants every core, it goes first."""


def sanctum(run: Run, /) -> None:
    """Show a run in the terminal.

    Args:
        run: folder of the run, live or long over.
    """
    _needs("textual")
    from esper_agents.karn.sanctum import show  # noqa: PLC0415 - optional

    os.nice(NICENESS)
    show(run)


def overwatch(run: Run, /, host: str = "127.0.0.1", port: int = 8080) -> None:
    """Show a run in the browser.

    Args:
        run: folder of the run, live or long over.
        host: address to listen at; any but the loopback asks its visitors for a token, which is printed.
        port: port to listen at; 0 takes a free one.
    """
    _needs("nicegui")
    from esper_agents.karn.overwatch import serve  # noqa: PLC0415 - optional

    os.nice(NICENESS)
    serve(run, host=host, port=port)


def sql(run: Run, query: Positional[str], /) -> None:
    """Ask a run's log a question, in DuckDB's SQL, and print the answer.

    Args:
        run: folder of the run.
        query: there is a table of each kind of event, such as step, update and episode.
    """
    _needs("duckdb")
    from esper_agents.karn.sql import answer  # noqa: PLC0415 - optional

    print(answer(run, query))


def replay(recording: Run, /, env: int | None = None, controller: str = "wait", epochs: int = 10) -> None:
    """Open a recording of the flight recorder, and go on from there.

    Args:
        recording: its folder, RUN/flight/NUMBER-REASON.
        env: environment to go on with; without it, all that was recorded is listed.
        controller: who goes on: wait, random, heuristic, periodic or a policy file.
        epochs: how far, at most to the end of the episode.
    """
    from esper_agents.karn.replay import play, tell  # noqa: PLC0415 - slow to import

    if env is None:
        print(tell(recording))
    else:
        print(play(recording, env, controller, epochs))


COMMANDS: dict[str, Callable[..., None]] = {
    "sanctum": sanctum,
    "overwatch": overwatch,
    "sql": sql,
    "replay": replay,
}


def _needs(package: str) -> None:
    if find_spec(package) is None:
        raise RunError(f"this needs the package {package}: pip install -e '.[karn]'")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status: 0, 2 for bad arguments, 130 when interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="python -m esper_agents.karn", args=words)
    except (RunError, RecordingError, DataNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
