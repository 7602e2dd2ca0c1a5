"""What the steps of a request leave: staged files, the verdict on them, loaded rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from atdm_engine.checks.results import CheckOutcome, Verdict, failed_checks
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_engine.generation.request import RequestSpec
from atdm_resources.postgres.ownership import Loaded

RUN_TABLE: Final = "test_run"
"""The catalog's table of test runs, which is loaded after the tables of a request."""


@dataclass(frozen=True, slots=True)
class StagedTable:
    """The Parquet file of a table's rows. ``bytes`` is its size.

    ``profile`` is the result of ``ColumnProfile``.
    """

    path: str
    rows: int
    bytes: int
    content_hash: str
    uri: str = ""
    profile: Mapping[str, Any] = field(default_factory=dict)
    sample: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Checked:
    """The generated data of a request and the verdict on it. ``seconds`` covers all tables.

    ``tables`` is empty unless the data was accepted. ``quarantine`` is the folder of rejected rows;
    ``exposed`` the file of what a lease hands out beyond keys that follow from the run id.
    """

    spec: RequestSpec
    outcomes: Sequence[CheckOutcome]
    verdict: Verdict
    tables: Mapping[str, StagedTable]
    content_hash: str
    quarantine: str | None
    exposed: str | None
    seconds: float

    @property
    def rows(self) -> int:
        """Rows of all staged tables."""
        return sum(table.rows for table in self.tables.values())

    def rejection(self) -> AtdmError:
        """Why the data is not accepted, as VALIDATOR_REJECTED."""
        violates = self.spec.scenario.spec.violates
        missing = sorted(set(violates) - set(self.verdict.failed))
        return AtdmError(
            ErrorCode.VALIDATOR_REJECTED,
            f"request {self.spec.request_id} is rejected: "
            + (
                ", ".join(self.verdict.failed)
                if self.verdict.failed
                else f"the data does not break {', '.join(missing)}, as the scenario declares"
            ),
            {
                "request_id": self.spec.request_id,
                "failed": failed_checks(self.outcomes),
                "violates": list(violates),
                "quarantine": self.quarantine,
            },
        )


@dataclass(frozen=True, slots=True)
class Seeded:
    """What loading a request did. ``tables`` has every table and, last, ``test_run``."""

    request_id: str
    runs: int
    tables: Mapping[str, Loaded]
    content_hash: str
    seconds: float

    @property
    def rows_by_table(self) -> dict[str, int]:
        """Rows of the domain's tables."""
        return {name: done.rows for name, done in self.tables.items() if name != RUN_TABLE}

    @property
    def rows(self) -> int:
        """Rows of the domain's tables together."""
        return sum(self.rows_by_table.values())
