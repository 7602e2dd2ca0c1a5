"""How many rows an owner gets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from atdm_engine.generation.counts import count_range, drawn_counts
from atdm_engine.random.stream import Stream
from atdm_engine.spec.scenario import Count

RUNS = np.arange(1, 40_001)


def counts(written: Any) -> tuple[np.ndarray[Any, Any], tuple[int, int]]:
    count: Count = TypeAdapter(Count).validate_python(written)
    return drawn_counts(count, Stream((1, "x")), RUNS, 0), count_range(count)


def test_a_number() -> None:
    drawn, possible = counts(3)
    assert possible == (3, 3)
    assert set(drawn.tolist()) == {3}


def test_uniform() -> None:
    drawn, possible = counts({"uniform": [2, 4]})
    assert possible == (2, 4)
    assert np.allclose(np.bincount(drawn)[2:] / len(RUNS), 1 / 3, atol=0.01)


@pytest.mark.parametrize("mean", [0.5, 3.0, 900.0])
def test_poisson_has_its_mean_and_spread(mean: float) -> None:
    drawn, possible = counts({"poisson": {"mean": mean, "max": 2000}})
    assert possible == (0, 2000)
    assert abs(drawn.mean() - mean) < 5 * (mean / len(RUNS)) ** 0.5
    assert abs(drawn.var() / mean - 1) < 0.05


def test_poisson_is_cut_at_its_maximum() -> None:
    drawn, _ = counts({"poisson": {"mean": 2.0, "max": 2}})
    shares = np.bincount(drawn) / len(RUNS)
    assert np.allclose(shares, [0.1353, 0.2707, 0.5940], atol=0.01)
    assert set(counts({"poisson": {"mean": 900.0, "max": 3}})[0].tolist()) == {3}


def test_zipf_starts_at_one() -> None:
    drawn, possible = counts({"zipf": {"max": 4, "exponent": 1.0}})
    assert possible == (1, 4)
    weights = 1 / np.arange(1, 5)
    assert np.allclose(np.bincount(drawn)[1:] / len(RUNS), weights / weights.sum(), atol=0.01)


def test_weights() -> None:
    drawn, possible = counts({"weights": {0: 1, 5: 3, 9: 0}})
    assert possible == (0, 5)
    assert set(drawn.tolist()) == {0, 5}
    assert abs((drawn == 5).mean() - 0.75) < 0.01
