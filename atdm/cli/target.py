"""``atdm init`` and ``atdm env``."""

from __future__ import annotations

import dataclasses
import shlex
from typing import TYPE_CHECKING

from atdm_assets.instance.environment import dagster_exports
from atdm_resources.settings import Settings
from atdm_services.target import access

if TYPE_CHECKING:
    from atdm.cli.output import Output
    from atdm_services.target.init import InitReport


def init(output: Output, *, disposable: str | None, rebuild: bool) -> int:
    """Initialise the target; a second time it only brings things up to date."""
    settings = Settings.from_environment()
    with access.connected(settings, output) as connection:
        report = access.initialise(
            settings, output, connection, disposable=disposable, rebuild=rebuild
        )
    output.emit(
        {**dataclasses.asdict(report), "changed": report.changed}, lambda: shown_init(report)
    )
    return 0


def env(output: Output) -> int:
    """Print shell exports, or the variables as one JSON object."""
    exports = dagster_exports(Settings.from_environment(), output)
    output.emit(
        exports,
        lambda: "\n".join(
            f"export {name}={shlex.quote(value)}" for name, value in sorted(exports.items())
        ),
    )
    return 0


def shown_init(report: InitReport) -> str:
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
