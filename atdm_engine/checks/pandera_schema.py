"""The pandera schema of a table file, over pandas columns that are backed by Arrow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pandera.pandas as pandera
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pandera.errors import SchemaErrorReason, SchemaErrors

from atdm_engine.arrow import duck
from atdm_engine.arrow.types import pandas_type
from atdm_engine.checks.columns import STORABLE, ColumnCheck, column_checks
from atdm_engine.checks.results import MAX_CASES
from atdm_engine.model import Domain
from atdm_engine.random.run_ids import RUN_COLUMN

Mask = NDArray[np.bool_]
"""True where a row fails."""
Key = tuple[str, str]
"""Column (or columns, or row check) and check."""


@dataclass
class Findings:
    """The rows that fail each check (``masks``), and why a check could not run (``errors``)."""

    masks: dict[Key, Mask] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)

    def clear(self) -> None:
        self.masks.clear()
        self.errors.clear()


def pandera_schema(
    domain: Domain, table: str, findings: Findings | None = None
) -> pandera.DataFrameSchema:
    """The schema of ``table``: pandas frames with ArrowDtype columns, ``test_run_id`` last.

    Checks are vectorised; each puts the rows that fail into ``findings``. Key uniqueness is within
    the frame. Row checks run in DuckDB with the semantics of an SQL CHECK: NULL passes.
    """
    spec = domain.tables[table]
    found = findings if findings is not None else Findings()
    columns = {
        name: pandera.Column(
            pandas_type(column.type),
            checks=[
                _column_check(name, check, found)
                for check in column_checks(
                    column, domain.spec.markers.get(f"{table}.{name}"), domain.spec.forbidden
                )
            ],
            nullable=column.nullable,
        )
        for name, column in spec.columns.items()
    }
    # No table file declares test_run_id: it must only be text that PostgreSQL can store.
    columns[RUN_COLUMN] = pandera.Column(
        pandas_type("text"),
        checks=[_column_check(RUN_COLUMN, STORABLE["text"], found)],
        nullable=True,
    )
    return pandera.DataFrameSchema(
        columns,
        checks=[
            *(_unique_check(group, found) for group in spec.unique_groups),
            *(_row_check(name, sql, found) for name, sql in spec.checks.items()),
        ],
        strict=True,
        ordered=True,
        name=table,
    )


def validate(schema: pandera.DataFrameSchema, table: pa.Table, findings: Findings) -> None:
    """Run ``schema`` over an Arrow table; afterwards ``findings`` holds what failed."""
    findings.clear()
    frame = arrow_frame(table)
    try:
        schema.validate(frame, lazy=True, inplace=True)
    except SchemaErrors as report:
        _read_report(report, table, findings)


def arrow_frame(table: pa.Table) -> pd.DataFrame:
    """An Arrow table as pandas without copying: every column keeps its Arrow array."""
    frame: pd.DataFrame = table.to_pandas(types_mapper=pd.ArrowDtype)
    return frame


def _check(
    name: str, error: str, failing: Callable[[Any], Mask | None], findings: Findings, key: Key
) -> pandera.Check:
    """A check that notes the rows that fail under ``key``; ``failing`` None: no row fails."""

    def run(data: pd.Series | pd.DataFrame) -> bool | pd.Series:
        mask = failing(data)
        if mask is None or not mask.any():
            # pandera is fastest with a plain True.
            return True
        findings.masks[key] = mask
        return pd.Series(~mask, index=data.index)

    return pandera.Check(run, name=name, error=error, n_failure_cases=MAX_CASES, ignore_na=False)


def _column_check(name: str, check: ColumnCheck, findings: Findings) -> pandera.Check:
    def failing(series: pd.Series) -> Mask | None:
        chunks = pa.chunked_array(series.array.__arrow_array__()).chunks
        holds = pa.chunked_array([check.passes(chunk) for chunk in chunks], pa.bool_())
        if pc.all(holds, skip_nulls=True, min_count=0).as_py():
            return None
        passed: Mask = pc.fill_null(holds, True).to_numpy()
        return ~passed

    return _check(check.name, check.description, failing, findings, (name, check.name))


def _unique_check(columns: tuple[str, ...], findings: Findings) -> pandera.Check:
    def failing(frame: pd.DataFrame) -> Mask | None:
        arrays = [
            pa.chunked_array(frame[name].array.__arrow_array__()).combine_chunks()
            for name in columns
        ]
        if len(columns) == 1 and _surely_distinct(arrays[0]):
            return None
        kept = np.ones(len(frame), bool)
        for array in arrays:
            kept &= ~array.is_null().to_numpy(zero_copy_only=False)
        repeated = np.zeros(len(frame), bool)
        repeated[kept] = frame.loc[kept, list(columns)].duplicated(keep="first").to_numpy()
        return repeated

    label = ", ".join(columns)
    return _check("unique", f"{label} is unique", failing, findings, (label, "unique"))


def _surely_distinct(array: pa.Array) -> bool:
    """Whether no value repeats. Ascending values need no count."""
    if len(array) < 2:
        return True
    if array.null_count == 0 and pc.all(pc.less(array[:-1], array[1:])).as_py():
        return True
    distinct: int = pc.count_distinct(array, mode="only_valid").as_py()
    return bool(distinct == len(array) - array.null_count)


def _row_check(name: str, condition: str, findings: Findings) -> pandera.Check:
    def failing(frame: pd.DataFrame) -> Mask | None:
        holds = duck.condition_holds(pa.Table.from_pandas(frame, preserve_index=False), condition)
        return None if holds is None else ~holds

    return _check(name, condition, failing, findings, (name, "row_check"))


def _read_report(report: SchemaErrors, table: pa.Table, findings: Findings) -> None:
    """Add the failures of pandera's own checks to ``findings``, and why checks could not run."""
    reason = SchemaErrorReason
    shape: list[str] = []
    raised: list[str] = []
    for error in report.schema_errors:
        column, case = str(error.schema.name), error.reason_code
        if case == reason.SERIES_CONTAINS_NULLS:
            findings.masks[column, "not_null"] = table.column(column).is_null().to_numpy()
        elif case == reason.WRONG_DATATYPE:
            wanted = report.schema.columns[column].dtype.type.pyarrow_dtype
            shape.append(f"{column} is of type {table.schema.field(column).type}, not {wanted}")
        elif case == reason.COLUMN_NOT_IN_SCHEMA:
            shape.append(f"{error.failure_cases} is no column of {report.schema.name}")
        elif case == reason.COLUMN_NOT_IN_DATAFRAME:
            shape.append(f"the column {error.failure_cases} is missing")
        elif case == reason.COLUMN_NOT_ORDERED:
            if "the columns are out of order" not in shape:
                shape.append("the columns are out of order")
        elif case == reason.CHECK_ERROR:
            name = error.check.name if isinstance(error.check, pandera.Check) else error.check
            # pandera fails to convert days beyond Python's calendar to Python values. The check
            # itself has run then, and its rows are in masks.
            if (column, name) not in findings.masks:
                raised.append(f"{column}, {name}: {error.failure_cases}")
        elif case != reason.DATAFRAME_CHECK:
            raised.append(str(error).splitlines()[0])
    # Checks also fail on columns that are missing or of another type: report only the cause.
    findings.errors.extend(shape or raised)
