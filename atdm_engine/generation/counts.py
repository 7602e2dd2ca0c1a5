"""How many rows a row group has: at most, and for each row that it is made per."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from graphlib import CycleError, TopologicalSorter

import numpy as np
from numpy.typing import NDArray

from atdm_engine.model import Scenario
from atdm_engine.random.stream import Numbers, Stream, below, cumulative, pick, unit, zipf_shares
from atdm_engine.spec.scenario import (
    Count,
    PoissonCount,
    RowGroup,
    UniformCount,
    WeightedCount,
    ZipfCount,
)
from atdm_engine.values.scalars import TypedScalar

MAX_ROWS_PER_RUN = 10_000_000
"""The most rows of one table that one run may have."""


def resolved_count(group: RowGroup, constraints: Mapping[str, TypedScalar]) -> Count:
    """The count, a constraint's name replaced by its value; ValueError when that is unusable."""
    count = group.count
    if not isinstance(count, str):
        return count
    value = group.constraints.get(count, constraints.get(count))
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 10_000:
        raise ValueError(f"count {count} is {value}, not an integer between 0 and 10000")
    return value


def count_range(count: Count) -> tuple[int, int]:
    """The least and the greatest number of rows an owner can get."""
    match count:
        case int():
            return count, count
        case UniformCount():
            return count.uniform[0], count.uniform[-1]
        case PoissonCount():
            return 0, count.poisson.max
        case ZipfCount():
            return 1, count.zipf.max
        case WeightedCount():
            possible = [number for number, weight in count.weights.items() if weight > 0]
            return min(possible), max(possible)
    raise ValueError(f"count {count!r} is not resolved")


def drawn_counts(
    count: Count, stream: Stream, runs: NDArray[np.int64], owners: Numbers
) -> NDArray[np.int64]:
    """The number of rows of each owner; ``owners`` are their places within their runs."""
    least, most = count_range(count)
    if least == most:
        return np.full(len(runs), least, np.int64)
    if isinstance(count, UniformCount):
        return below(stream.u64(runs, owners), most - least + 1).view(np.int64) + least
    values, shares = _distribution(count)
    return values[pick(shares, unit(stream.u64(runs, owners)))]


def _distribution(count: Count) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    match count:
        case PoissonCount():
            return np.arange(count.poisson.max + 1), _poisson(count.poisson.mean, count.poisson.max)
        case ZipfCount():
            shares = zipf_shares(count.zipf.max, count.zipf.exponent)
            return np.arange(1, count.zipf.max + 1), shares
        case WeightedCount():
            values = sorted(count.weights)
            return np.array(values), cumulative([count.weights[value] for value in values])
    raise ValueError(f"count {count!r} is no distribution")


@lru_cache(maxsize=32)
def _poisson(mean: float, most: int) -> NDArray[np.float64]:
    """Running shares of 0..most; all beyond count as ``most``."""
    # Multiplication and division alone, which every machine rounds alike; exp and log it does not.
    weights = [1.0]
    while len(weights) <= most or len(weights) <= mean or weights[-1] > 1e-20 * max(weights):
        weights.append(weights[-1] * mean / len(weights))
        if weights[-1] > 1e250:
            weights = [weight * 1e-250 for weight in weights]
    shares = cumulative(weights)[: most + 1].copy()
    shares[-1] = 1.0
    return shares


def after_parents(scenario: Scenario) -> list[str]:
    """The row groups, each after the one it is made ``per``; ValueError when there is a circle."""
    parents = {name: [group.per] if group.per else [] for name, group in scenario.groups.items()}
    try:
        return list(TopologicalSorter(parents).static_order())
    except CycleError as error:
        circle = " -> ".join(error.args[1])
        raise ValueError(f"row groups are made per each other: {circle}") from error


def max_rows(scenario: Scenario, constraints: Mapping[str, TypedScalar]) -> dict[str, int]:
    """The most rows of each table that one run can have."""
    of_group: dict[str, int] = {}
    of_table: dict[str, int] = {}
    for name in after_parents(scenario):
        group = scenario.groups[name]
        owners = of_group[group.per] if group.per else 1
        of_group[name] = owners * count_range(resolved_count(group, constraints))[1]
        table = group.table or name
        of_table[table] = of_table.get(table, 0) + of_group[name]
    return of_table
