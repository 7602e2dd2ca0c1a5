"""Dagster's record of a run: materialisations and check evaluations.

Importing it loads Dagster.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from dagster import DagsterEventType, TableMetadataValue

from atdm_assets.instance.local_instance import instance

if TYPE_CHECKING:
    from dagster import AssetCheckEvaluation, AssetMaterialization

    from atdm_resources.settings import Settings

_SHOWN = ("dagster/row_count", "bytes", "content_hash", "dagster/uri", "seconds")


def read_run(settings: Settings, run_id: str) -> dict[str, Any]:
    """The record of a run: run_id, status, started_at, finished_at, materialisations, checks.

    ``note`` is set if this instance does not know the run. Raises AtdmError if its storage cannot
    be reached.
    """
    with instance(settings) as opened:
        record = opened.get_run_record_by_id(run_id)
        if record is None:
            return {"run_id": run_id, "note": "this instance of Dagster does not know the run"}
        entries = opened.all_logs(
            run_id,
            of_type={
                DagsterEventType.ASSET_MATERIALIZATION,
                DagsterEventType.ASSET_CHECK_EVALUATION,
            },
        )
    materialisations, checks = [], []
    for entry in entries:
        event = entry.dagster_event
        if event is None:
            continue
        if event.event_type is DagsterEventType.ASSET_MATERIALIZATION:
            materialisations.append(
                _materialisation(event.step_materialization_data.materialization)
            )
        else:
            checks.append(_check(event.asset_check_evaluation_data))
    return {
        "run_id": run_id,
        "job": record.dagster_run.job_name,
        "status": record.dagster_run.status.value,
        "started_at": _moment(record.start_time),
        "finished_at": _moment(record.end_time),
        "materialisations": materialisations,
        "checks": checks,
    }


def _materialisation(made: AssetMaterialization) -> dict[str, Any]:
    shown = {
        name.removeprefix("dagster/"): made.metadata[name].value
        for name in _SHOWN
        if name in made.metadata
    }
    return {"asset": made.asset_key.to_user_string(), "partition": made.partition, **shown}


def _check(evaluation: AssetCheckEvaluation) -> dict[str, Any]:
    values = {name: value.value for name, value in evaluation.metadata.items()}
    table = evaluation.asset_key.path[-1]
    name = evaluation.check_name
    cases = evaluation.metadata.get("cases")
    return {
        # Names of checks cannot have the dots of a rule; other checks belong to their table.
        "validator": name.replace("__", ".") if "__" in name else f"{table}.{name}",
        "table": table,
        "decision": "passed" if evaluation.passed else "failed",
        "expected_violation": bool(values.get("expected_violation", False)),
        "judged": values.get("judged"),
        "failed": values.get("failed"),
        "vacuous": values.get("vacuous"),
        "message": evaluation.description,
        "cases": [dict(record.data) for record in cases.records]
        if isinstance(cases, TableMetadataValue)
        else [],
    }


def _moment(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat()
