"""A database for tables that need not fit into memory: DuckDB with bounded memory, in a temporary folder."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import duckdb

MEMORY = "128MB"
"""Memory of the database; the process takes about 160 MB more."""

THREADS = 2
"""More would each hold a part of the memory."""


@contextlib.contextmanager
def scratch_database() -> Iterator[duckdb.DuckDBPyConnection]:
    """Yield an empty database, which is deleted afterwards. It lies where temporary files do (``TMPDIR``)."""
    import duckdb

    with tempfile.TemporaryDirectory(prefix="mmkd-") as folder, duckdb.connect(f"{folder}/scratch") as database:
        database.execute(f"SET memory_limit = '{MEMORY}'; SET temp_directory = '{folder}'; SET threads = {THREADS}")
        yield database
