"""From what a caller asks to a resolved request, with every mistake at once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from atdm_engine.errors import AtdmError, ErrorCode
from atdm_engine.generation.request import resolve, seed_of
from atdm_engine.random.run_ids import MAX_RUNS, time_of
from tests.support.shop import REQUEST, ROWS, TABLES, request, shop


def refused(given: dict[str, Any], registry: Any = None, **options: Any) -> AtdmError:
    arguments: dict[str, Any] = {"request_id": REQUEST, **options}
    with pytest.raises(AtdmError) as caught:
        resolve(*(registry or shop()).find("sale"), given, **arguments)
    return caught.value


def test_what_is_not_given_follows_from_the_request_id() -> None:
    spec = resolve(*shop().find("sale"), {}, request_id=REQUEST)
    assert spec.seed == seed_of(REQUEST)
    assert 0 <= spec.seed < 2**63
    assert spec.as_of == time_of(REQUEST)
    assert (spec.runs, spec.number_base, spec.given) == (1, 0, {})
    assert spec.effective == {
        "customer_status": "new",
        "purchase_state": None,
        "category": None,
        "vip": None,
        "lines": 2,
    }


def test_given_values_are_typed_and_win_over_defaults() -> None:
    tokyo = timezone(timedelta(hours=9))
    given = {"vip": "false", "lines": "3", "category": "toys"}
    as_of = datetime(2026, 1, 1, 9, tzinfo=tokyo)
    spec = resolve(*shop().find("sale"), given, request_id=REQUEST, seed=5, as_of=as_of)
    assert spec.given == {"vip": False, "lines": 3, "category": "toys"}
    assert spec.effective["vip"] is False
    assert spec.effective["customer_status"] == "new"
    assert spec.seed == 5
    assert spec.as_of == datetime(2026, 1, 1, tzinfo=UTC)
    assert spec.as_of.utcoffset() == timedelta(0)


def test_seeds_of_requests_differ_and_stay() -> None:
    assert seed_of(REQUEST) == 1037039421496889851
    assert seed_of(REQUEST) != seed_of(REQUEST.replace("ABC", "ABD"))


def test_all_constraint_errors_come_at_once() -> None:
    error = refused({"vpi": True, "lines": "9", "category": "toy", "purchase_state": "lost"})
    assert error.code == ErrorCode.CONSTRAINT_INVALID
    problems = {one["constraint"]: one for one in error.details["problems"]}
    assert set(problems) == {"vpi", "lines", "category", "purchase_state"}
    assert problems["vpi"]["nearest"] == "vip"
    assert "did you mean 'vip'" in str(error)
    assert problems["lines"]["allowed"] == "an integer at least 0 at most 5"
    assert "did you mean 'toys'" in problems["category"]["message"]
    assert problems["purchase_state"]["allowed"] == "one of: open, paid, void"


def test_a_pinned_constraint_contradicts_another_value() -> None:
    rows = {"customer": {"count": 1, "with": {"customer_status": "loyal"}}}
    registry = shop(rows)
    error = refused({"customer_status": "new"}, registry)
    assert error.code == ErrorCode.CONSTRAINT_CONTRADICTION
    assert error.details["constraint_a"] == {
        "name": "customer_status",
        "value": "new",
        "source": "request",
    }
    assert error.details["constraint_b"]["value"] == "loyal"
    assert error.details["constraint_b"]["source"] == "row group customer"
    same = resolve(*registry.find("sale"), {"customer_status": "loyal"}, request_id=REQUEST)
    assert same.given == {"customer_status": "loyal"}
    # One group of the table is free to take the value: no contradiction.
    assert request(given={"customer_status": "new"}).given == {"customer_status": "new"}


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"runs": 0}, "runs is 0"),
        ({"runs": MAX_RUNS + 1}, "runs is"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**63}, "seed is"),
        ({"as_of": datetime(2026, 1, 1)}, "time zone"),
        ({"request_id": "nonsense"}, "request_id"),
        ({"number_base": -1}, "number_base"),
    ],
)
def test_senseless_requests_are_refused(options: dict[str, Any], found: str) -> None:
    error = refused({}, **options)
    assert error.code == ErrorCode.REQUEST_INVALID
    assert found in str(error)


def test_several_faults_of_a_request_come_at_once() -> None:
    error = refused({}, runs=0, seed=-1)
    assert len(error.details["problems"]) == 2


def test_unique_numbers_are_counted_by_the_largest_table_that_needs_them() -> None:
    assert request(runs=10).numbers_needed == 30
    plain = shop({"category": 2})
    assert request(plain, runs=10).numbers_needed == 0


def test_a_unique_column_that_is_used_up_is_refused() -> None:
    error = refused({}, runs=10, number_base=998_990)
    assert error.code == ErrorCode.REQUEST_INVALID
    assert "customer.number has 999000 unique values" in str(error)
    assert resolve(*shop().find("sale"), {}, request_id=REQUEST, runs=1, number_base=998_990)


def _customer(**column: Any) -> dict[str, Any]:
    columns = {**TABLES["customer"]["columns"], "login": {"type": "text", "unique": True, **column}}
    return {"customer": {**TABLES["customer"], "columns": columns}}


@pytest.mark.parametrize(
    ("column", "found"),
    [
        ({"generate": {"constant": "x"}}, "constant cannot be unique"),
        ({"generate": {"sql": "first_name"}}, "sql cannot be unique"),
        ({"type": "date", "generate": {"date": {"from": "as_of", "to": "as_of"}}}, "date cannot"),
        ({"generate": {"pattern": "a{1,3}"}}, "fixed length"),
        ({"generate": {"pattern": "[a-z]{30}"}}, "at most 2\\*\\*62"),
        (
            {"type": "integer", "generate": {"integer": {"max": 9, "distribution": "zipf"}}},
            "no distribution",
        ),
    ],
)
def test_what_cannot_be_unique_is_refused(column: dict[str, Any], found: str) -> None:
    with pytest.raises(AtdmError, match=found) as caught:
        request(shop(tables=_customer(**column)))
    assert caught.value.code == ErrorCode.SPEC_INVALID
    assert "customer.login" in str(caught.value)


def test_setting_a_unique_column_is_refused() -> None:
    rows = {"customer": {"count": 1, "set": {"login": "me"}}}
    with pytest.raises(AtdmError, match="unique column cannot be set"):
        request(shop(rows))


def test_an_unusable_count_is_refused() -> None:
    rows = {"customer": {"count": "customer_status"}}
    with pytest.raises(AtdmError, match="not an integer"):
        request(shop(rows))
    circle = {"customer": {"per": "friend"}, "friend": {"table": "customer", "per": "customer"}}
    with pytest.raises(AtdmError, match="per each other"):
        request(shop(circle))
    huge = {"customer": 10_000, "friend": {"table": "customer", "per": "customer", "count": 10_000}}
    with pytest.raises(AtdmError, match="100010000 rows"):
        request(shop(huge))


def test_the_whole_example_is_sound() -> None:
    assert request(shop(ROWS)).scenario.tables == ("customer", "purchase", "line")
