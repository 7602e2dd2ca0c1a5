"""The rows of a request, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa

from atdm_engine.generation.batch import Batch
from atdm_engine.generation.request import RequestSpec
from atdm_engine.random.run_ids import RUN_COLUMN, run_number_array

BATCH_ROWS = 500_000
"""The most rows of a batch, unless a single run has more. It bounds the memory."""


def generate(spec: RequestSpec, first: int, last: int) -> dict[str, pa.Table]:
    """The rows of runs ``first``..``last`` (numbers from 1, both included).

    Every made table, in insert order; columns in the table file's order and then ``test_run_id``;
    rows by run and row in run. Raises SPEC_INVALID when a column cannot be made.
    """
    if not 1 <= first <= last <= spec.runs:
        raise ValueError(f"runs {first}..{last} are not within 1..{spec.runs}")
    return Batch(spec, first, last).tables()


def runs_per_batch(spec: RequestSpec) -> int:
    """How many runs have at most ``BATCH_ROWS`` rows in all tables together; at least 1."""
    return max(1, BATCH_ROWS // max(1, sum(spec.plan.rows_per_run.values())))


def batches(
    spec: RequestSpec, batch_runs: int | None = None, *, first: int = 1, last: int | None = None
) -> Iterator[dict[str, pa.Table]]:
    """The rows of runs ``first``..``last`` (None: the last one) in batches; see ``generate``.

    A batch has ``batch_runs`` runs; None means as many as bound the memory (``runs_per_batch``).
    """
    step = runs_per_batch(spec) if batch_runs is None else batch_runs
    end = spec.runs if last is None else last
    if step < 1:
        raise ValueError(f"batch_runs is {step}, allowed: 1 and above")
    for begin in range(first, end + 1, step):
        yield generate(spec, begin, min(begin + step - 1, end))


def exposed_data(
    spec: RequestSpec, batch: Mapping[str, pa.Table]
) -> tuple[list[int], list[dict[str, object]]]:
    """What a lease of each run of a batch hands out beyond what follows from the run id.

    Run numbers, and beside each its values by exposed name, for exposures that are not static; both
    lists are empty when all are. A run without the row has None.
    """
    moving = [exposure for exposure in spec.scenario.exposes if exposure.row is None]
    filled = [table.column(RUN_COLUMN) for table in batch.values() if table.num_rows]
    if not moving or not filled:
        return [], []
    ends = [runs.take([0, len(runs) - 1]).combine_chunks() for runs in filled]
    present = run_number_array(pa.concat_arrays(ends))
    numbers = list(range(int(present.min()), int(present.max()) + 1))
    whole = Batch(spec, numbers[0], numbers[-1])
    found: list[dict[str, object]] = [{one.name: None for one in moving} for _ in numbers]
    for exposure in moving:
        rows = whole.layout.groups[exposure.group]
        places = rows.batch_runs if rows.batch_runs is not None else np.arange(len(rows))
        runs, firsts = np.unique(places, return_index=True)
        in_table = firsts if rows.places is None else rows.places[firsts]
        values = batch[exposure.table].column(exposure.column).take(pa.array(in_table)).to_pylist()
        for run, value in zip(runs.tolist(), values, strict=True):
            found[run][exposure.name] = value
    return numbers, found
