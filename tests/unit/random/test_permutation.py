"""The bijection behind unique columns."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atdm_engine.random.permutation import MAX_CAPACITY, Permutation


@pytest.mark.parametrize("capacity", [1, 2, 3, 10, 255, 256, 257, 4097])
def test_it_is_a_bijection(capacity: int) -> None:
    permutation = Permutation("a.b", capacity)
    values = permutation.forward(np.arange(capacity))
    assert sorted(values.tolist()) == list(range(capacity))
    assert (permutation.inverse(values) == np.arange(capacity)).all()


@given(capacity=st.integers(1, MAX_CAPACITY), share=st.floats(0, 1))
def test_the_inverse_undoes_it_for_any_capacity(capacity: int, share: float) -> None:
    number = min(int(capacity * share), capacity - 1)
    permutation = Permutation("x", capacity)
    value = permutation.forward(np.array([number]))
    assert 0 <= value[0] < capacity
    assert permutation.inverse(value)[0] == number


def test_consecutive_numbers_land_far_apart_and_evenly() -> None:
    capacity = 10**9
    values = Permutation("x", capacity).forward(np.arange(100_000))
    assert len(np.unique(values)) == 100_000
    counts = np.bincount(values // (capacity // 100), minlength=100)[:100]
    assert ((counts - 1000) ** 2 / 1000).sum() < 170  # p > 1e-5 with 99 degrees of freedom
    assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.02


def test_the_name_selects_it_and_it_never_changes() -> None:
    assert Permutation("x", 1000).forward(np.arange(5)).tolist() == GOLDEN
    assert Permutation("y", 1000).forward(np.arange(5)).tolist() != GOLDEN


@pytest.mark.parametrize("numbers", [[-1], [10], [3, 11]])
def test_numbers_outside_are_refused(numbers: list[int]) -> None:
    with pytest.raises(ValueError, match="between 0 and 9"):
        Permutation("x", 10).forward(np.array(numbers))


@pytest.mark.parametrize("capacity", [0, MAX_CAPACITY + 1])
def test_senseless_capacities_are_refused(capacity: int) -> None:
    with pytest.raises(ValueError, match="capacity"):
        Permutation("x", capacity)


GOLDEN = [271, 589, 340, 299, 927]
