"""Statistical quality and stability of the random source.

Thresholds: a p-value below 1e-4 fails. Every test runs over fixed seeds, so it either always passes
or never does; the positive controls show that each test can fail.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from atdm_engine.random.stream import (
    Stream,
    below,
    cumulative,
    pick,
    stream_for,
    stream_key,
    unit,
    zipf_shares,
)

SEEDS = (0, 1, 2, 12_345, 2**63 - 1)
COUNT = 200_000
RUNS = np.arange(1, COUNT + 1)
LEAST_P = 1e-4


def chi_square_p(observed: NDArray[np.int64], expected: float) -> float:
    """The two-sided p-value of a chi-square test (Wilson and Hilferty's approximation)."""
    freedom = observed.size - 1
    statistic = float(((observed - expected) ** 2 / expected).sum())
    spread = 2 / (9 * freedom)
    z = ((statistic / freedom) ** (1 / 3) - (1 - spread)) / math.sqrt(spread)
    # Both tails: a generator that is too even is no better than one that is too uneven.
    return 2 * min(NormalDist().cdf(z), 1 - NormalDist().cdf(z))


def uniform(one: Stream, *cells: Any) -> NDArray[np.float64]:
    return unit(one.u64(*cells))


def uniformity_p(values: NDArray[np.float64], bins: int = 256) -> float:
    counts = np.bincount((values * bins).astype(np.int64), minlength=bins)
    return chi_square_p(counts, len(values) / bins)


def pairs_p(one: NDArray[np.float64], two: NDArray[np.float64], bins: int = 16) -> float:
    cells = (one * bins).astype(np.int64) * bins + (two * bins).astype(np.int64)
    return chi_square_p(np.bincount(cells, minlength=bins * bins), len(one) / bins**2)


def correlation_p(one: NDArray[np.float64], two: NDArray[np.float64]) -> float:
    z = float(np.corrcoef(one, two)[0, 1]) * math.sqrt(len(one))
    return 2 * (1 - NormalDist().cdf(abs(z)))


def stream(seed: int, column: str = "status") -> Stream:
    return stream_for(seed, "shop/sale", "claim", column)


def test_a_cell_depends_on_its_place_alone() -> None:
    everything = stream(1).u64(RUNS)
    assert (stream(1).u64(RUNS[500:600]) == everything[500:600]).all()
    assert (stream(1).u64(RUNS[::-1]) == everything[::-1]).all()
    rows = RUNS % 5
    some = stream(1).u64(RUNS, rows)
    assert (some[rows == 0] == everything[rows == 0]).all()
    assert (stream(1).u64(RUNS[:9], 3) == stream(1).u64(RUNS[:9], np.full(9, 3))).all()


def test_the_bits_are_the_same_for_ever() -> None:
    key = (14355182210166117350, 9787197803840387454)
    assert stream_key(7, "shop/sale", "claim", "status") == key
    assert stream(7).u64(np.array([1, 2, 10**9]), 3, 4).tolist() == [
        16800537535985807555,
        4829017637899738492,
        11376406769372904802,
    ]


def test_streams_of_different_places_differ() -> None:
    streams = [
        stream_for(1, "a/b", "t", "c"),
        stream_for(2, "a/b", "t", "c"),
        stream_for(1, "a/bc", "t", "c"),
        stream_for(1, "a/b", "tc", ""),
        stream_for(1, "a/b", "t", "c").derive("x"),
    ]
    assert len({int(one.u64(RUNS[:1])[0]) for one in streams}) == len(streams)


@pytest.mark.parametrize("seed", SEEDS)
def test_values_are_uniform(seed: int) -> None:
    bits = stream(seed).u64(RUNS)
    assert uniformity_p(unit(bits)) > LEAST_P
    # The low bits too: integers are made of all of them.
    low = (bits & np.uint64(0xFFFF)).astype(np.float64) / 2**16
    assert uniformity_p(low) > LEAST_P
    for bit in range(64):
        ones = int(((bits >> np.uint64(bit)) & np.uint64(1)).sum())
        assert abs(ones - COUNT / 2) < 5 * math.sqrt(COUNT) / 2, f"bit {bit}"


Pair = Callable[[int], tuple[NDArray[np.float64], NDArray[np.float64]]]
PAIRS: dict[str, Pair] = {
    "neighbouring columns": lambda seed: (
        uniform(stream(seed, "column_1"), RUNS),
        uniform(stream(seed, "column_2"), RUNS),
    ),
    "neighbouring rows": lambda seed: (
        uniform(stream(seed), RUNS, 0),
        uniform(stream(seed), RUNS, 1),
    ),
    "neighbouring runs": lambda seed: (
        uniform(stream(seed), RUNS),
        uniform(stream(seed), RUNS + 1),
    ),
    "neighbouring seeds": lambda seed: (
        uniform(stream(seed), RUNS),
        uniform(stream(seed ^ 1), RUNS),
    ),
    "neighbouring elements": lambda seed: (
        uniform(stream(seed), RUNS, 2, 1),
        uniform(stream(seed), RUNS, 2, 2),
    ),
    "a derived stream": lambda seed: (
        uniform(stream(seed), RUNS),
        uniform(stream(seed).derive("bin"), RUNS),
    ),
    "row and element": lambda seed: (
        uniform(stream(seed), RUNS, 1, 2),
        uniform(stream(seed), RUNS, 2, 1),
    ),
}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", PAIRS)
def test_neighbours_are_independent(name: str, seed: int) -> None:
    one, two = PAIRS[name](seed)
    assert pairs_p(one, two) > LEAST_P
    assert correlation_p(one, two) > LEAST_P


@pytest.mark.parametrize("seed", SEEDS)
def test_every_output_bit_depends_on_every_counter_bit(seed: int) -> None:
    base = stream(seed).u64(RUNS)
    for bit in range(30):
        flipped = stream(seed).u64(RUNS ^ (1 << bit))
        changed = np.unpackbits((base ^ flipped).view(np.uint8)).reshape(COUNT, 64).mean(axis=0)
        assert (np.abs(changed - 0.5) < 0.01).all(), f"counter bit {bit}"


def test_a_bad_generator_fails_the_same_tests() -> None:
    """Positive controls: an unmixed counter, a slight bias, two columns of one stream."""
    counter = (RUNS * 2654435761 % 2**32) / 2**32
    assert uniformity_p(counter) < LEAST_P, "too even"
    biased = uniform(stream(1), RUNS) ** 1.05
    assert uniformity_p(biased) < LEAST_P
    assert pairs_p(counter[:-1], counter[1:]) < LEAST_P
    same = uniform(stream(1), RUNS)
    assert correlation_p(same, same) < LEAST_P
    mostly_other = np.where(RUNS % 50 == 0, same, uniform(stream(2), RUNS))
    assert correlation_p(same, mostly_other) < LEAST_P


@pytest.mark.parametrize("limit", [1, 2, 3, 10, 256, 1000, 2**31 + 7, 2**40 + 3, 2**63])
def test_integers_stay_below_their_limit_and_use_it_all(limit: int) -> None:
    drawn = below(stream(3).u64(RUNS), limit).astype(object)
    assert min(drawn) >= 0
    assert max(drawn) < limit
    if limit <= 1000:
        assert len(set(drawn)) == limit
        if limit > 1:
            counts = np.bincount(drawn.astype(np.int64), minlength=limit)
            assert chi_square_p(counts, COUNT / limit) > LEAST_P or limit == 2
    exact = [int(bits) * limit >> 64 for bits in stream(3).u64(RUNS[:500])]
    if limit >= 2**32 or limit & (limit - 1) == 0:
        assert drawn[:500].tolist() == exact


def test_limits_may_differ_from_cell_to_cell() -> None:
    limits = RUNS % 7 + 1
    drawn = below(stream(3).u64(RUNS), limits)
    assert (drawn < limits.astype(np.uint64)).all()
    sevens = drawn[limits == 7].astype(np.int64)
    assert chi_square_p(np.bincount(sevens, minlength=7), len(sevens) / 7) > LEAST_P


@pytest.mark.parametrize("limit", [0, -1, 2**63 + 1])
def test_senseless_limits_are_refused(limit: int) -> None:
    with pytest.raises(ValueError, match="limit"):
        below(stream(1).u64(RUNS[:1]), limit)


def test_weights_are_met_and_zero_is_never_picked() -> None:
    weights = np.array([0, 1, 5, 0, 4, 0])
    picked = np.bincount(pick(cumulative(weights), uniform(stream(1), RUNS)), minlength=6)
    assert picked[[0, 3, 5]].sum() == 0
    kept = picked[[1, 2, 4]] / COUNT
    assert np.allclose(kept, [0.1, 0.5, 0.4], atol=0.005)
    ends = np.array([0.0, np.nextafter(1.0, 0.0)])
    assert pick(cumulative(weights), ends).tolist() == [1, 4]


def test_zipf_falls_with_the_rank() -> None:
    picked = np.bincount(pick(zipf_shares(50, 1.2), uniform(stream(1), RUNS)), minlength=50)
    weights = np.arange(1, 51) ** -1.2
    assert np.allclose(picked / COUNT, weights / weights.sum(), atol=0.004)
