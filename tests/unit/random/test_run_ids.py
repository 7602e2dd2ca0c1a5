"""Ids: minting, taking apart, whole columns of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from secrets import token_bytes

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ulid import ULID

from atdm_engine.errors import AtdmError, ErrorCode
from atdm_engine.random import run_ids
from atdm_engine.random.run_ids import (
    MAX_RUNS,
    check_label,
    is_request_id,
    is_run_id,
    key_array,
    new_request_id,
    request_of,
    run_id,
    run_id_array,
    run_number,
    run_number_array,
    time_of,
)
from tests.support.shop import row_key

REQUEST = "01K0ABCDEF0123456789000000"


def test_a_new_request_id_is_a_ulid_of_its_moment_without_run() -> None:
    now = datetime(2026, 3, 4, 5, 6, 7, 891_000, tzinfo=UTC)
    made = new_request_id(now, token_bytes(10))
    assert is_request_id(made)
    assert not is_run_id(made)
    assert ULID.from_str(made).datetime == now
    assert time_of(made) == now
    assert run_number(made) == 0


def test_ids_sort_by_time_and_do_not_repeat() -> None:
    now = datetime.now(UTC)
    ids = [
        new_request_id(now + timedelta(milliseconds=step), token_bytes(10)) for step in range(50)
    ]
    assert ids == sorted(ids)
    assert len({new_request_id(now, token_bytes(10)) for _ in range(500)}) == 500
    assert abs(time_of(new_request_id(now, token_bytes(10))) - now) < timedelta(milliseconds=1)
    with pytest.raises(ValueError, match="time zone"):
        new_request_id(datetime(2026, 1, 1), token_bytes(10))


@given(number=st.integers(1, MAX_RUNS))
def test_run_ids_carry_their_number(number: int) -> None:
    made = run_id(REQUEST, number)
    assert is_run_id(made)
    assert run_number(made) == number
    assert request_of(made) == REQUEST
    assert str(ULID.from_str(made)) == made


@pytest.mark.parametrize("number", [0, -1, MAX_RUNS + 1])
def test_numbers_out_of_range_are_refused(number: int) -> None:
    with pytest.raises(ValueError, match="run number"):
        run_id(REQUEST, number)


@pytest.mark.parametrize(
    "text", ["", "01K0", REQUEST.lower(), REQUEST + "0", "91K0ABCDEF0123456789000000", "U" * 26]
)
def test_what_is_no_id_is_refused(text: str) -> None:
    assert not is_request_id(text)
    assert not is_run_id(text)
    for use in (run_number, request_of, time_of):
        with pytest.raises(ValueError, match="is no"):
            use(text)
    with pytest.raises(ValueError, match="request id"):
        run_id(text, 1)


def test_columns_agree_with_the_scalar_functions() -> None:
    numbers = np.array([1, 2, 31, 32, 1023, 1024, 10**6, MAX_RUNS])
    ids = run_id_array(REQUEST, numbers)
    assert ids.type == pa.string()
    assert ids.to_pylist() == [run_id(REQUEST, int(number)) for number in numbers]
    assert run_number_array(ids).tolist() == numbers.tolist()
    assert key_array("m", REQUEST, numbers, 0).to_pylist() == [
        f"m-{one}" for one in ids.to_pylist()
    ]
    ids.validate(full=True)


@given(
    rows=st.lists(
        st.tuples(st.integers(1, MAX_RUNS), st.integers(0, 10**7)), min_size=1, max_size=40
    )
)
def test_keys_of_any_rows_agree_with_the_scalar_function(rows: list[tuple[int, int]]) -> None:
    numbers = np.array([number for number, _ in rows])
    places = np.array([place for _, place in rows])
    made = key_array("claim", REQUEST, numbers, places)
    made.validate(full=True)
    assert made.to_pylist() == [row_key("claim", run_id(REQUEST, n), k) for n, k in rows]


def test_one_row_index_may_hold_for_all() -> None:
    assert key_array("x", REQUEST, np.array([1, 2]), 3).to_pylist() == [
        row_key("x", run_id(REQUEST, 1), 3),
        row_key("x", run_id(REQUEST, 2), 3),
    ]
    assert len(run_id_array(REQUEST, np.array([], np.int64))) == 0


def test_texts_that_are_no_run_ids_have_no_number() -> None:
    texts = pa.array([None, "", run_id(REQUEST, 5), REQUEST[:20] + "0000U1", "x" * 26, REQUEST])
    assert run_number_array(texts).tolist() == [-1, -1, 5, -1, -1, 0]
    assert run_number_array(texts.slice(2, 2)).tolist() == [5, -1]


def test_a_column_of_an_alien_request_is_refused() -> None:
    with pytest.raises(ValueError, match="request id"):
        run_id_array(run_id(REQUEST, 1), np.array([1]))
    assert run_ids.MAX_RUNS == 2**30 - 1


@pytest.mark.parametrize("label", ["../../etc/x", "", "a b", "x" * 65, "a/b", "a\n", "\u00e9"])
def test_labels_that_could_leave_a_folder_are_refused(label: str) -> None:
    with pytest.raises(AtdmError) as caught:
        check_label(label)
    assert caught.value.code is ErrorCode.REQUEST_INVALID


def test_good_labels_pass() -> None:
    assert check_label("nightly-2026_01") == "nightly-2026_01"
