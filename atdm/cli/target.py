"""``atdm init``, and the connection to the target that the other commands use."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atdm.cli.output import Output
from atdm_resources.settings import Settings

if TYPE_CHECKING:
    import psycopg

    from atdm_services.target.init import InitReport


def init(
    output: Output,
    disposable: Annotated[
        str | None,
        typer.Option(metavar="DBNAME", help="Mark this database, which has tables, as disposable."),
    ] = None,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Drop and make the domain tables that have drifted.")
    ] = False,
) -> None:
    """Make the catalog and the tables in the target, and publish the scenarios. Repeatable.

    Example: atdm init --disposable app_test
    """
    from atdm_services.target import access

    with connected(output) as (settings, connection):
        report = access.initialise(
            settings, output, connection, disposable=disposable, rebuild=rebuild
        )
    output.emit(
        {**dataclasses.asdict(report), "changed": report.changed}, lambda: init_text(report)
    )


@contextmanager
def connected(output: Output) -> Iterator[tuple[Settings, psycopg.Connection[Any]]]:
    """The settings of the environment and a connection to their target.

    Raises AtdmError: REQUEST_INVALID for a wrong variable, TARGET_UNREACHABLE.
    """
    from atdm_services.target import access

    settings = Settings.from_environment()
    with access.connected(settings, output) as connection:
        yield settings, connection


def init_text(report: InitReport) -> str:
    """What was done, a line each."""
    lines = [f"database {report.database}: {'initialised' if report.changed else 'up to date'}"]
    if report.marked:
        lines.append(f"  marked as disposable ({report.marked})")
    if report.migrated:
        lines.append("  catalog brought to its latest revision")
    if report.rebuilt:
        lines.append(f"  made again: {', '.join(report.rebuilt)}")
    if report.tables:
        lines.append(f"  {len(report.tables)} tables: {', '.join(report.tables)}")
    if report.reference_rows:
        rows = ", ".join(f"{count} in {name}" for name, count in report.reference_rows.items())
        lines.append(f"  reference rows: {rows}")
    if report.scenarios:
        lines.append(f"  {len(report.scenarios)} scenarios published")
    return "\n".join([*lines, *(f"  note: {note}" for note in report.notes)])
