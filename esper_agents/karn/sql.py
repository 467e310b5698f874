"""DuckDB over a run's log: a table of each kind of event."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

import duckdb

from esper_agents.karn.reading import RunError, RunLog
from esper_env.nissa.records import HINTS

ROWS, WIDTH = 10_000, 1_000
"""Most rows that are shown, and characters of a field."""
COLUMNS = {float: "DOUBLE", int: "BIGINT", str: "VARCHAR", bool: "BOOLEAN", Any: "JSON"}


def answer(run: Path, query: str) -> str:
    """Run `query` over the log of `run` and return the answer as a table of text.

    Each kind of event is a table, with ``time_s`` and a column for each field. Null is what was not measured.

    Raises:
        RunError: there is no log, or the query is wrong.
    """
    path = str(RunLog(run).path).replace("'", "''")
    connection = duckdb.connect()
    try:
        lines = f"read_json_objects('{path}', format='newline_delimited', ignore_errors=true)"
        connection.execute(f"CREATE TABLE line AS SELECT json FROM {lines}")
        for kind, hints in HINTS.items():
            columns = {"time_s": "DOUBLE"} | {name: _column(hint) for name, hint in hints.items()}
            rows = f"SELECT json_transform(json, '{json.dumps(columns)}') AS e FROM line WHERE json->>'kind' = '{kind}'"
            connection.execute(f'CREATE VIEW "{kind}" AS SELECT UNNEST(e) FROM ({rows})')
        result = connection.sql(query)
        if result is None:
            return ""
        with redirect_stdout(StringIO()) as text:
            result.show(max_rows=ROWS, max_width=1_000_000, max_col_width=WIDTH)
        return text.getvalue().rstrip()
    except duckdb.Error as error:
        raise RunError(f"the query failed: {error}") from error
    finally:
        connection.close()


def _column(hint: Any) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return _column(next(a for a in arguments if a is not NoneType))
    if origin is tuple:
        return [_column(arguments[0])]
    if origin is not None and issubclass(origin, Mapping):
        value = _column(arguments[1])
        return "JSON" if value == "JSON" else f"MAP(VARCHAR, {value})"
    return COLUMNS[hint]
