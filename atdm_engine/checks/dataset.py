"""The checks of a dataset: in each shard, and over all shards together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from atdm_engine.checks.results import MAX_CASES, CheckId, CheckOutcome, Tally, check_ids
from atdm_engine.hashing.content import cell_hashes
from atdm_engine.hashing.texts import mix
from atdm_engine.model import Dataset, Domain
from atdm_engine.random.run_ids import RUN_DIGITS
from atdm_engine.random.stream import U64

WHOLE_KEYS = "whole_keys"
WHOLE_REFERENCES = "whole_references"
WHOLE_COUNTS = "whole_counts"


def dataset_check_ids(domain: Domain, dataset: Dataset) -> tuple[CheckId, ...]:
    """Every check of a dataset by table in insert order: of its scenarios, then over all shards.

    ``DatasetOutcomes.outcomes`` has the same.
    """
    found: dict[tuple[str, str], CheckId] = {}
    scenarios = dict.fromkeys(part.scenario for part in dataset.parts)
    for scenario in scenarios:
        for check in check_ids(domain, domain.scenarios[scenario]):
            found.setdefault((check.table, check.name), check)
    for table, spec in domain.tables.items():
        described = {
            WHOLE_KEYS: f"No key or unique value of {table} occurs twice in any two shards.",
            WHOLE_COUNTS: f"The shards of {table} hold the rows that were made and checked.",
        }
        if spec.foreign_keys:
            described[WHOLE_REFERENCES] = f"Every {table} refers to rows that are in the dataset."
        for name, text in described.items():
            found[table, name] = CheckId(table, name, "whole", text)
    order = {name: place for place, name in enumerate(domain.tables)}
    return tuple(sorted(found.values(), key=lambda check: order[check.table]))


class DatasetOutcomes:
    """The sums of the outcomes of all shards of a dataset."""

    def __init__(self, domain: Domain, dataset: Dataset) -> None:
        self._tallies = {
            (check.table, check.name): (check, Tally())
            for check in dataset_check_ids(domain, dataset)
        }

    def add(self, outcomes: Iterable[Mapping[str, Any]]) -> None:
        """Add outcomes as ``outcome_json`` writes them."""
        for one in outcomes:
            _, tally = self._tallies[one["table"], one["name"]]
            tally.add(one["judged"], one["failed"], one["cases"])
            tally.fail(one["error"])
            tally.details = tally.details or one.get("details") or {}

    def outcomes(self) -> list[CheckOutcome]:
        """The outcome of every check of ``dataset_check_ids``, in its order."""
        return [tally.outcome(check) for check, tally in self._tallies.values()]


def whole_outcome(
    table: str, name: str, judged: int, failed: int, cases: Sequence[dict[str, Any]] = ()
) -> dict[str, Any]:
    """The outcome of a check over all shards, as ``outcome_json`` writes outcomes."""
    return {
        "table": table, "name": name, "judged": judged, "failed": failed,
        "cases": list(cases[:MAX_CASES]), "error": None,
    }  # fmt: skip


def outcome_json(outcome: CheckOutcome) -> dict[str, Any]:
    """An outcome as JSON values, as the report of a shard holds it."""
    check = outcome.check
    found = whole_outcome(check.table, check.name, outcome.judged, outcome.failed, outcome.cases)
    return {**found, "error": outcome.error, "details": outcome.details}


@dataclass(frozen=True)
class HashGroup:
    """Columns whose values are compared over shards: unique ones, or one that refers to a key.

    ``parent`` is the group that holds the keys referred to, None for a unique group.
    """

    table: str
    columns: tuple[str, ...]
    parent: str | None = None

    @property
    def name(self) -> str:
        """``<table>:<columns>``, and ``->`` for a reference: unique in a domain."""
        return f"{self.table}:{','.join(self.columns)}" + ("->" if self.parent else "")


def hash_groups(domain: Domain) -> tuple[HashGroup, ...]:
    """The groups of columns to compare over the shards of a dataset of ``domain``."""
    found: list[HashGroup] = []
    for table, spec in domain.tables.items():
        found += [HashGroup(table, group) for group in spec.unique_groups]
        for column, parent in spec.foreign_keys.items():
            keys = HashGroup(parent, domain.tables[parent].key_columns)
            found.append(HashGroup(table, (column,), keys.name))
    return tuple(found)


def group_hashes(rows: pa.Table, group: HashGroup, identity: str) -> U64:
    """A 64-bit hash of each row without a NULL in the group; for a reference each value once.

    ``identity`` is the dataset's (``dataset_id``): its part of the keys is not hashed over again.
    """
    marker = identity[:-RUN_DIGITS].encode("ascii")
    total: U64 = np.zeros(len(rows), np.uint64)
    kept: NDArray[np.bool_] = np.ones(len(rows), bool)
    for name in group.columns:
        column = rows.column(name)
        column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        if isinstance(column, pa.ChunkedArray):
            column = pa.concat_arrays(column.chunks)
        if column.null_count:
            kept &= ~column.is_null().to_numpy(zero_copy_only=False)
        # Chained, so that (a, b) and (b, a) differ.
        total = mix(total + cell_hashes(column, marker))
    hashes = total if kept.all() else total[kept]
    return distinct(np.sort(hashes)) if group.parent else hashes


def distinct(ascending: U64) -> U64:
    """Each value of a sorted array once; numpy's own ``unique`` takes ten times as long."""
    kept: NDArray[np.bool_] = np.ones(len(ascending), bool)
    np.not_equal(ascending[1:], ascending[:-1], out=kept[1:])
    found: U64 = ascending[kept]
    return found
