"""Values that must not repeat across batches."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from atdm_engine.arrow import duck
from atdm_engine.generators.id import Id
from atdm_engine.spec.table import TableSpec

MAX_REMEMBERED = 10_000_000


class SeenValues:
    """The values of a table's unique columns in earlier batches, as 64-bit hashes.

    Keys that the generator derives from the run are left out: run ids do not repeat. Beyond
    ``limit`` values of a column no more are remembered (80 MB each); the target's unique index then
    has the last word.
    """

    def __init__(self, spec: TableSpec, *, limit: int = MAX_REMEMBERED) -> None:
        derived = any(isinstance(spec.columns[name].generate, Id) for name in spec.key_columns)
        self._limit = limit
        self._hashes: dict[tuple[str, ...], NDArray[np.uint64]] = {
            group: np.empty(0, np.uint64)
            for group in spec.unique_groups
            if not (derived and group == spec.key_columns)
        }

    def repeated(self, table: pa.Table) -> dict[tuple[str, str], NDArray[np.bool_]]:
        """The rows that repeat values of earlier batches, by unique group; then remember all rows.

        Rows with a NULL in the group never repeat, as in a unique constraint of PostgreSQL.
        """
        found: dict[tuple[str, str], NDArray[np.bool_]] = {}
        for group, earlier in self._hashes.items():
            hashes, kept = _hashes(table, group)
            known = np.zeros(len(table), bool)
            if len(earlier):
                places = np.minimum(np.searchsorted(earlier, hashes), len(earlier) - 1)
                known = kept & (earlier[places] == hashes)
            if known.any():
                found[", ".join(group), "unique"] = known
            if len(earlier) < self._limit:
                merged = np.concatenate([earlier, hashes[kept]])
                merged.sort(kind="stable")
                self._hashes[group] = merged
        return found


def _hashes(
    table: pa.Table, group: tuple[str, ...]
) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    kept = np.ones(len(table), bool)
    for name in group:
        if table.column(name).null_count:
            kept &= ~table.column(name).is_null().to_numpy()
    return duck.row_hashes(table.select(list(group))), kept
