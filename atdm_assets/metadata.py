"""Dagster metadata of definitions, materialisations, checks and failures."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import dagster as dg
from dagster import MetadataValue

from atdm_engine.checks.results import CheckId, CheckOutcome
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_engine.generation.request import RequestSpec
from atdm_engine.model import Domain, Scenario
from atdm_engine.random.run_ids import RUN_COLUMN
from atdm_engine.spec.table import ColumnSpec, TableSpec
from atdm_engine.values.scalars import json_value
from atdm_services.requests.reference import ReferenceResult
from atdm_services.requests.results import Checked, Seeded

Metadata = dict[str, Any]

MOST_CASES: Final = 20
_HEIGHTS: Final = "\u2002\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"
"""A blank as wide as the blocks, then the blocks from low to full."""

_FULL: Final = "\u2588"
_WIDTH: Final = 10
MOST_TEXT: Final = 200
"""Characters of a value shown in a sample: enough to recognise it."""


def scenario_metadata(scenario: Scenario) -> Metadata:
    """What is known about a scenario before anything runs (A-SCN-11)."""
    return {
        "scenario_id": scenario.name,
        "scenario_version": scenario.version,
        "linked_requirement_ids": MetadataValue.json(list(scenario.spec.linked_requirement_ids)),
        "validators": MetadataValue.json(list(scenario.spec.validators)),
        "violates": MetadataValue.json(list(scenario.spec.violates)),
    }


def table_definition_metadata(domain: Domain, scenario: Scenario, table: str) -> Metadata:
    return {
        **scenario_metadata(scenario),
        "dagster/table_name": f"{domain.name}.{table}",
        "dagster/column_schema": column_schema(domain.tables[table]),
    }


def reference_definition_metadata(domain: Domain, table: str) -> Metadata:
    return {
        "dagster/table_name": f"{domain.name}.{table}",
        "dagster/column_schema": column_schema(domain.tables[table]),
    }


def column_schema(spec: TableSpec) -> dg.TableSchema:
    """A table file as Dagster shows it, with the run-id column that ATDM adds."""
    columns = [_table_column(spec, name, column) for name, column in spec.columns.items()]
    columns.append(dg.TableColumn(RUN_COLUMN, "text", "The test run that the row belongs to."))
    return dg.TableSchema(
        columns=columns, constraints=dg.TableConstraints(other=list(spec.checks.values()))
    )


def _table_column(spec: TableSpec, name: str, column: ColumnSpec) -> dg.TableColumn:
    rules = []
    if column.values:
        rules.append("one of: " + ", ".join(column.values))
    for word, bound in (
        ("at least", column.min),
        ("at most", column.max),
        ("length at least", column.min_length),
        ("length at most", column.max_length),
        ("matches", column.pattern),
        ("references", column.references),
        ("Luhn checksum", column.luhn),
    ):
        if bound is not None:
            rules.append(f"{word} {bound}")
    return dg.TableColumn(
        name,
        column.type,
        column.description or None,
        dg.TableColumnConstraints(
            nullable=column.nullable,
            unique=column.unique or spec.key_columns == (name,),
            other=rules,
        ),
    )


def request_metadata(spec: RequestSpec, label: str, *, replayed: bool) -> Metadata:
    return {
        "request_id": spec.request_id,
        "label": label,
        "replayed": replayed,
        "runs": spec.runs,
        "seed": MetadataValue.text(str(spec.seed)),
        "as_of": MetadataValue.timestamp(spec.as_of),
        "given_constraints": MetadataValue.json(json_value(spec.given)),
        "effective_constraints": MetadataValue.json(json_value(spec.effective)),
        "scenario_version": spec.scenario.version,
        "linked_requirement_ids": MetadataValue.json(
            list(spec.scenario.spec.linked_requirement_ids)
        ),
        **audit_link(spec.request_id),
    }


def audit_link(request_id: str) -> Metadata:
    """A request's audit page (ADR 0071): the command that writes it, and a link.

    The link needs ATDM_AUDIT_URL, the address of `atdm audit-serve`.
    """
    found: Metadata = {"audit": f"atdm audit {request_id} --html audit-{request_id}.html"}
    base = os.environ.get("ATDM_AUDIT_URL", "").strip().rstrip("/")
    if base:
        found["audit_page"] = MetadataValue.url(f"{base}/{request_id}")
    return found


def table_metadata(checked: Checked, table: str) -> Metadata:
    spec, staged = checked.spec, checked.tables[table]
    return {
        "request_id": spec.request_id,
        "dagster/row_count": staged.rows,
        "bytes": staged.bytes,
        "content_hash": staged.content_hash,
        "dagster/uri": MetadataValue.url(staged.uri),
        "dagster/column_schema": column_schema(spec.domain.tables[table]),
        "sample": records_table(staged.sample),
        "profile": profile_table(staged.profile),
        "seconds": round(checked.seconds, 3),
        "rows_per_second": rate(staged.rows, checked.seconds),
        "linked_requirement_ids": MetadataValue.json(
            list(spec.scenario.spec.linked_requirement_ids)
        ),
    }


def seeded_metadata(seeded: Seeded) -> Metadata:
    return {
        "request_id": seeded.request_id,
        "runs": seeded.runs,
        "rows": MetadataValue.json(seeded.rows_by_table),
        "dagster/row_count": seeded.rows,
        "content_hash": seeded.content_hash,
        "seconds": round(seeded.seconds, 3),
        "rows_per_second": rate(seeded.rows, seeded.seconds),
        **audit_link(seeded.request_id),
    }


def reference_metadata(result: ReferenceResult) -> Metadata:
    return {
        "dagster/row_count": result.rows,
        "other_rows": result.others,
        "content_hash": result.content_hash,
        "sample": records_table(result.sample),
    }


def rate(rows: int, seconds: float) -> int:
    """Rows a second, 0 when nothing was timed."""
    return round(rows / seconds) if seconds > 0 else 0


def check_metadata(scenario: Scenario, check: CheckId) -> Metadata:
    return {
        "kind": check.kind,
        "rule": check.rule or MetadataValue.null(),
        "headline": check.rule in scenario.spec.validators,
    }


def check_result(
    asset_key: dg.AssetKey, outcome: CheckOutcome, about: Metadata, *, expected: bool = False
) -> dg.AssetCheckResult:
    """The outcome of a check as Dagster records it; ``about`` names the data that was checked.

    In a scenario that breaks exactly the rules that it declares (``expected``), those checks pass,
    and their metadata says that the violation is expected (ADR 0004).
    """
    expected = expected and not outcome.passed
    details: Metadata = {
        **about,
        "judged": outcome.judged,
        "failed": outcome.failed,
        "vacuous": outcome.vacuous,
    }
    if outcome.cases:
        details["cases"] = records_table(outcome.cases[:MOST_CASES])
    if outcome.details:
        details["details"] = MetadataValue.json(json_value(outcome.details))
    if outcome.error:
        details["error"] = outcome.error
    if expected:
        details["expected_violation"] = True
    return dg.AssetCheckResult(
        asset_key=asset_key,
        check_name=outcome.check.name,
        passed=outcome.passed or expected,
        metadata=details,
        description=_summary(outcome, expected),
    )


def _summary(outcome: CheckOutcome, expected: bool) -> str:
    noun = "values" if outcome.check.kind == "whole" else "rows"
    if outcome.error:
        return f"Could not be judged: {outcome.error}"
    if outcome.vacuous and not expected:
        return f"Vacuous: it had no {noun} to judge."
    if outcome.passed:
        return f"{outcome.judged} {noun} judged, all hold."
    declared = ", as the scenario declares" if expected else ""
    return f"{outcome.failed} of {outcome.judged} {noun} break it{declared}."


def failure(error: AtdmError) -> dg.Failure:
    """``error`` as Dagster shows it: code and details as metadata, no retry."""
    return dg.Failure(
        description=error.message,
        metadata={
            "error_code": str(error.code),
            "error_details": MetadataValue.json(json_value(error.details)),
        },
        allow_retries=False,
    )


def error_in(message: str, values: Mapping[str, Any]) -> AtdmError | None:
    """The error that ``failure`` wrote as metadata ``values``; None when there is none."""
    code = values.get("error_code")
    if code not in set(ErrorCode):
        return None
    details = values.get("error_details")
    return AtdmError(ErrorCode(code), message, details if isinstance(details, dict) else {})


@contextmanager
def reported_failures() -> Iterator[None]:
    """Errors with a code inside the block become failures that carry it."""
    try:
        yield
    except AtdmError as error:
        raise failure(error) from error


def records_table(rows: Sequence[Mapping[str, Any]]) -> MetadataValue[Any]:
    """Rows as a table in the UI; null when there is none, for a table needs columns."""
    if not rows:
        return MetadataValue.null()
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return MetadataValue.table(
        [dg.TableRecord({name: _cell(row.get(name)) for name in columns}) for row in rows],
        dg.TableSchema([dg.TableColumn(name, "string") for name in columns]),
    )


def profile_table(profile: Mapping[str, Any]) -> MetadataValue[Any]:
    """A column profile as a table, one line a column."""
    return records_table(
        [
            {
                "column": name,
                "nulls": values["nulls"],
                "distinct": values["distinct"],
                "chart": chart(values),
                "min": values["min"],
                "max": values["max"],
                "top": _most_frequent(values["top"]),
            }
            for name, values in profile["columns"].items()
        ]
    )


def chart(column: Mapping[str, Any]) -> str:
    """The distribution of a column's values, drawn in characters.

    A histogram from the least to the greatest value, or a bar for each of a few values; empty for
    one value and for many without an order.
    """
    histogram: list[int] | None = column["histogram"]
    if histogram:
        highest = max(histogram)
        steps = len(_HEIGHTS) - 1
        # Only an empty bin is blank: a small one gets the lowest block.
        return "".join(_HEIGHTS[-(-count * steps // highest)] for count in histogram)
    if not 1 < column["distinct"] <= len(column["top"]):
        return ""
    known = sum(item["rows"] for item in column["top"])
    shares = [(item["value"], item["rows"] / known) for item in column["top"]]
    return "  ".join(
        f"{_cell(value)} {_FULL * max(1, round(share * _WIDTH))} {share:.0%}"
        for value, share in shares
    )


def _most_frequent(top: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(f"{_cell(item['value'])} ({item['rows']})" for item in top)


def _cell(value: Any) -> str | int | float | bool | None:
    if value is None or isinstance(value, bool | int | float):
        return value
    text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= MOST_TEXT else text[: MOST_TEXT - 1] + "\u2026"
