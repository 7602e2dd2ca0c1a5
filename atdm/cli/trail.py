"""``atdm audit`` and ``atdm catalog``.

Belongs here: printing what the catalog holds. Does not belong here: putting a trail together
(``atdm.audit``) or SQL.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from atdm import target_access
from atdm.audit import audit_trail, shown_trail
from atdm.output import table
from atdm_resources import reports
from atdm_resources.settings import Settings

if TYPE_CHECKING:
    from atdm.output import Output


def audit(output: Output, run: str) -> int:
    """Print one trail."""
    settings = Settings.from_environment()
    with target_access.connected(settings, output) as connection, output.working("reading"):
        trail = audit_trail(settings, connection, run)
    output.emit(trail, lambda: shown_trail(trail))
    return 0


def catalog_scenarios(output: Output) -> int:
    """Print what is published in the target."""
    settings = Settings.from_environment()
    with target_access.connected(settings, output) as connection:
        counts = {
            (row["domain"], row["scenario_id"]): {"ready": row["ready"], "leased": row["leased"]}
            for row in reports.runs_by_scenario(connection)
        }
        found = [
            {**row, **counts[row["domain"], row["scenario_id"]]}
            for row in reports.scenarios(connection)
        ]
    output.emit(
        found,
        lambda: table(
            None,
            ("scenario", "what", "requirements", "ready", "leased"),
            [
                (
                    f"{row['domain']}/{row['scenario_id']}",
                    row["description"].strip(),
                    ", ".join(row["linked_requirement_ids"]),
                    row["ready"],
                    row["leased"],
                )
                for row in found
            ],
        ),
    )
    return 0


def catalog_runs(output: Output, *, scenario: str | None, limit: int) -> int:
    """Print requests, the latest first."""
    settings = Settings.from_environment()
    domain, _, name = (scenario or "").rpartition("/")
    with target_access.connected(settings, output) as connection:
        found = reports.requests(
            connection, domain=domain or None, scenario_id=name or None, limit=limit
        )
    output.emit(
        found,
        lambda: table(
            None,
            ("request", "label", "scenario", "status", "runs", "asked by", "at"),
            [
                (
                    row["request_id"],
                    row["label"] if row["label"] != row["request_id"] else "",
                    f"{row['domain']}/{row['scenario_id']}",
                    row["status"],
                    row["runs"],
                    row["invoker"],
                    row["created_at"],
                )
                for row in found
            ],
        ),
    )
    return 0
