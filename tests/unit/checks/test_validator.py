"""Every check over every batch: what passes, what fails, and what is reported."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pandera.errors import SchemaErrors

from atdm_engine.arrow.types import arrow_type
from atdm_engine.checks.pandera_schema import arrow_frame, pandera_schema
from atdm_engine.checks.results import CheckOutcome, check_ids, verdict
from atdm_engine.checks.validator import MAX_REJECTED, Validator
from atdm_engine.model import Domain, Scenario
from tests.support.shop_bundle import FILES, replaced, shop

RUN = "01JQ8ZK3M5T7V9W1X2Y3"
RULE = "relational.closed_customers_buy_nothing"


def run_ids(runs: int, first: int = 1) -> list[str]:
    return [f"{RUN}{number:06d}" for number in range(first, first + runs)]


def batch(
    domain: Domain, runs: int = 3, first: int = 1, **changes: Mapping[str, Any]
) -> dict[str, pa.Table]:
    """Valid rows of ``runs`` runs; ``changes`` replace columns, by table."""
    ids = run_ids(runs, first)
    cells: dict[str, dict[str, Any]] = {
        "customer": {
            "customer_id": [f"cust-{run}" for run in ids],
            "name": "FAKE_Ada",
            "status": "active",
            "joined": date(2025, 1, 1),
            "vip": False,
        },
        "purchase": {
            "purchase_id": [f"pur-{run}" for run in ids],
            "customer_id": [f"cust-{run}" for run in ids],
            "country": "DE",
            "state": "open",
            "amount": Decimal("9.50"),
            "paid_at": None,
            "note": None,
        },
    }
    made = {}
    for table, columns in cells.items():
        arrays = {}
        for name, spec in domain.tables[table].columns.items():
            value = changes.get(table, {}).get(name, columns.get(name))
            if not isinstance(value, pa.Array):
                listed = value if isinstance(value, list) else [value] * runs
                value = pa.array(listed, arrow_type(spec.type))
            arrays[name] = value
        made[table] = pa.table({**arrays, "test_run_id": pa.array(ids, pa.string())})
    return made


def validated(
    *batches: dict[str, pa.Table],
    scenario: str = "first_purchase",
    changes: Mapping[str, str | None] | None = None,
    effective: Mapping[str, Any] | None = None,
) -> tuple[Validator, dict[str, CheckOutcome]]:
    registry = shop(changes)
    validator = Validator(registry.domains["shop"], registry.scenario(scenario), effective)
    for one in batches:
        validator.check(one)
    return validator, {outcome.check.label: outcome for outcome in validator.outcomes()}


def failed(outcomes: Mapping[str, CheckOutcome]) -> dict[str, int]:
    return {name: outcome.failed for name, outcome in outcomes.items() if not outcome.passed}


@pytest.fixture(scope="module")
def domain() -> Domain:
    return shop().domains["shop"]


class TestCheckIds:
    def test_one_grouping_makes_specs_and_results(self, domain: Domain) -> None:
        scenario = domain.scenarios["first_purchase"]
        ids = check_ids(domain, scenario)
        assert [(check.table, check.name, check.kind) for check in ids] == [
            ("customer", "schema", "schema"),
            ("purchase", "schema", "schema"),
            ("purchase", "references", "references"),
            ("purchase", "relational__closed_customers_buy_nothing", "rule"),
        ]
        assert ids[3].rule == RULE
        assert ids[3].description == "A closed customer has no open purchase."
        assert tuple(o.check for o in Validator(domain, scenario).outcomes()) == ids

    def test_every_shipped_check_name_is_safe_and_unique(self, domain: Domain) -> None:
        for scenario in domain.scenarios.values():
            ids = check_ids(domain, scenario)
            assert all(check.name.isidentifier() for check in ids)
            assert len({(check.table, check.name) for check in ids}) == len(ids)


class TestSchema:
    def test_valid_rows_pass_and_are_counted_over_batches(self, domain: Domain) -> None:
        _, outcomes = validated(batch(domain), batch(domain, 2, first=4))
        assert failed(outcomes) == {}
        assert {name: outcome.judged for name, outcome in outcomes.items()} == {
            "customer.schema": 5,
            "purchase.schema": 5,
            "purchase.references": 10,
            RULE: 5,
        }

    @pytest.mark.parametrize(
        ("table", "column", "value", "check"),
        [
            ("customer", "name", [None, "FAKE_Ada", "FAKE_Ada"], "not_null"),
            ("customer", "name", ["Ada Lovelace", "FAKE_Ada", "FAKE_Ada"], "marker"),
            ("customer", "name", ["FAKE_", "FAKE_Ada", "FAKE_Ada"], "min_length"),
            ("customer", "name", ["FAKE_" + "x" * 16, "FAKE_Ada", "FAKE_Ada"], "max_length"),
            ("customer", "name", ["FAKE_A\0", "FAKE_Ada", "FAKE_Ada"], "plain_text"),
            ("customer", "status", ["Active", "active", "active"], "allowed_values"),
            ("customer", "joined", [date(2019, 12, 31), date(2020, 1, 1), date(2020, 1, 1)],
             "minimum"),
            ("purchase", "amount", [Decimal("0.00"), Decimal("0.01"), Decimal("1")], "minimum"),
            ("purchase", "amount", [Decimal("9999.01"), Decimal("9999"), Decimal("1")], "maximum"),
            ("purchase", "note", ["1234-1234-1234-1234", None, ""], "forbidden_card_number"),
        ],
    )  # fmt: skip
    def test_a_bad_cell_is_one_failed_row_and_a_case(
        self, domain: Domain, table: str, column: str, value: list[Any], check: str
    ) -> None:
        validator, outcomes = validated(batch(domain, **{table: {column: value}}))
        assert failed(outcomes) == {f"{table}.schema": 1}
        (case,) = outcomes[f"{table}.schema"].cases
        assert (case["check"], case["column"]) == (check, column)
        assert case["test_run_id"] == run_ids(1)[0]
        json.dumps(case)
        rows = validator.rejected()[table]
        assert rows.column("test_run_id").to_pylist() == run_ids(1)
        assert rows.column("atdm_reason").to_pylist() == [f"schema: {column} {check}"]

    def test_a_row_failing_twice_counts_once_and_has_both_reasons(self, domain: Domain) -> None:
        bad = batch(domain, customer={"name": ["x", "FAKE_Ada", "FAKE_Ada"]})
        validator, outcomes = validated(bad)
        assert failed(outcomes) == {"customer.schema": 1}
        (reason,) = validator.rejected()["customer"].column("atdm_reason").to_pylist()
        assert reason == "schema: name min_length; schema: name marker"

    def test_row_checks_have_the_semantics_of_an_sql_check(self, domain: Domain) -> None:
        paid = {"state": ["paid", "paid", "open"], "paid_at": [None, datetime.now(UTC), None]}
        _, outcomes = validated(batch(domain, purchase=paid))
        assert failed(outcomes) == {"purchase.schema": 1}
        (case,) = outcomes["purchase.schema"].cases
        assert (case["check"], case["column"]) == ("row_check", "paid_has_time")
        assert case["state"] == "paid"
        unknown = replaced(
            "shop/tables/purchase.yaml", "state <> 'paid' OR paid_at IS NOT NULL", "note <> 'x'"
        )
        notes = batch(domain, purchase={"note": [None, "x", "y"]})
        _, outcomes = validated(notes, changes=unknown)
        assert failed(outcomes) == {"purchase.schema": 1}

    def test_a_row_check_that_cannot_be_computed_fails_and_says_why(self, domain: Domain) -> None:
        division = replaced(
            "shop/tables/purchase.yaml",
            "state <> 'paid' OR paid_at IS NOT NULL",
            "10 / length(note) > 1",
        )
        _, outcomes = validated(
            batch(domain, purchase={"note": ["", "ab", None]}), changes=division
        )
        assert not outcomes["purchase.schema"].passed
        assert "ivision by zero" in str(outcomes["purchase.schema"].error)

    def test_keys_are_unique_in_a_batch(self, domain: Domain) -> None:
        ids = [f"cust-{run}" for run in run_ids(3)]
        twice = batch(domain, customer={"customer_id": [ids[0], ids[1], ids[0]]})
        _, outcomes = validated(twice)
        assert outcomes["customer.schema"].failed == 1
        assert outcomes["customer.schema"].cases[0]["check"] == "unique"

    def test_unique_columns_are_unique_across_batches(self, domain: Domain) -> None:
        unique = replaced(
            "shop/tables/purchase.yaml",
            "note: {type: text, nullable: true}",
            "note: {type: text, nullable: true, unique: true}",
        )
        first = batch(domain, purchase={"note": ["a", None, "b"]})
        second = batch(domain, first=4, purchase={"note": ["c", None, "a"]})
        _, outcomes = validated(first, second, changes=unique)
        assert failed(outcomes) == {"purchase.schema": 1}
        assert outcomes["purchase.schema"].cases[0]["note"] == "a"
        _, outcomes = validated(batch(domain, purchase={"note": ["a", "a", None]}), changes=unique)
        assert failed(outcomes) == {"purchase.schema": 1}

    @pytest.mark.parametrize(
        ("change", "error"),
        [
            (lambda t: t.drop_columns(["name"]), "the column name is missing"),
            (lambda t: t.append_column("x", t["name"]), "x is no column of customer"),
            (lambda t: t.select(t.column_names[::-1]), "the columns are out of order"),
            (
                lambda t: t.set_column(1, "name", pa.array([1, 2, 3])),
                "name is of type int64, not string",
            ),
        ],
    )
    def test_tables_of_another_shape_fail_whole_and_say_why(
        self, domain: Domain, change: Any, error: str
    ) -> None:
        one = batch(domain)
        one["customer"] = change(one["customer"])
        _, outcomes = validated(one)
        assert outcomes["customer.schema"].failed == 3
        assert outcomes["customer.schema"].error == error

    def test_a_missing_table_is_a_failed_check_and_no_exception(self, domain: Domain) -> None:
        one = batch(domain)
        del one["customer"]
        _, outcomes = validated(one)
        assert "customer" in str(outcomes["customer.schema"].error)
        assert not outcomes["purchase.references"].passed

    def test_cases_and_rejected_rows_are_bounded(self, domain: Domain) -> None:
        runs = MAX_REJECTED + 500
        bad = batch(domain, runs, customer={"name": "x"}, purchase={"customer_id": "nobody"})
        validator, outcomes = validated(bad, batch(domain, 5, 20_000, customer={"name": "x"}))
        assert outcomes["customer.schema"].failed == runs + 5
        assert len(outcomes["customer.schema"].cases) == 20
        assert validator.rejected()["customer"].num_rows == MAX_REJECTED

    def test_empty_tables_are_vacuous(self, domain: Domain) -> None:
        _, outcomes = validated(batch(domain, 0))
        assert failed(outcomes) == {}
        assert all(outcome.vacuous for outcome in outcomes.values())


class TestPandera:
    def test_the_schema_stands_on_its_own(self, domain: Domain) -> None:
        schema = pandera_schema(domain, "customer")
        good = arrow_frame(batch(domain)["customer"])
        assert schema.validate(good, lazy=True) is not None
        bad = arrow_frame(batch(domain, customer={"name": ["x", None, "FAKE_Ada"]})["customer"])
        with pytest.raises(SchemaErrors) as error:
            schema.validate(bad, lazy=True)
        assert set(error.value.failure_cases["check"]) == {
            "at least 6 characters",
            "starts with FAKE_",
            "not_nullable",
        }

    def test_columns_are_handed_over_without_a_copy(self, domain: Domain) -> None:
        table = batch(domain)["customer"]
        column = arrow_frame(table)["name"].array.__arrow_array__()
        address = table.column("name").chunk(0).buffers()[2].address
        assert column.chunk(0).buffers()[2].address == address


class TestReferences:
    def test_rows_of_the_batch_and_reference_rows_exist(self, domain: Domain) -> None:
        _, outcomes = validated(batch(domain, purchase={"country": ["DE", "FR", "DE"]}))
        assert failed(outcomes) == {}

    def test_others_do_not(self, domain: Domain) -> None:
        bad = {"country": ["XX", "DE", "DE"], "customer_id": ["a", "b", f"cust-{RUN}000003"]}
        validator, outcomes = validated(batch(domain, purchase=bad))
        assert failed(outcomes)["purchase.references"] == 3
        cases = [(c["column"], c["check"], c[c["column"]]) for c in
                 outcomes["purchase.references"].cases]  # fmt: skip
        assert cases == [
            ("customer_id", "no such customer", "a"),
            ("customer_id", "no such customer", "b"),
            ("country", "no such country", "XX"),
        ]
        assert validator.rejected()["purchase"].num_rows == 2


class TestRules:
    def test_a_broken_rule_names_rows_runs_and_constraints(self, domain: Domain) -> None:
        one = batch(domain, customer={"status": ["closed", "active", "active"]})
        validator, outcomes = validated(
            one, effective={"customer_status": "closed", "purchase_state": "open", "vip": False}
        )
        assert failed(outcomes) == {RULE: 1}
        outcome = outcomes[RULE]
        assert outcome.cases == [
            {"purchase_id": f"pur-{RUN}000001", "holds": "false", "test_run_id": f"{RUN}000001"}
        ]
        assert outcome.details == {
            "constraints": {"customer_status": "closed", "purchase_state": "open"},
            "constraint_a": "customer_status=closed",
            "constraint_b": "purchase_state=open",
        }
        assert validator.rejected()["purchase"].column("atdm_reason").to_pylist() == [RULE]

    def test_null_fails(self, domain: Domain) -> None:
        name = f"shop/rules/{RULE}.sql"
        rule = "SELECT purchase_id, CAST(NULLIF(note, 'x') = 'y' AS BOOLEAN) AS holds FROM purchase"
        _, outcomes = validated(
            batch(domain, purchase={"note": ["y", "x", None]}), changes={name: rule}
        )
        assert failed(outcomes) == {RULE: 2}
        assert [case["holds"] for case in outcomes[RULE].cases] == [None, None]

    def test_judging_nothing_is_vacuous_and_passes(self, domain: Domain) -> None:
        changes = {
            f"shop/rules/{RULE}.sql": "SELECT purchase_id, false AS holds FROM purchase "
            "WHERE state = 'lost' -- nothing"
        }
        _, outcomes = validated(batch(domain), changes=changes)
        assert (outcomes[RULE].passed, outcomes[RULE].vacuous) == (True, True)

    def test_reference_rows_are_there_for_rules(self, domain: Domain) -> None:
        changes = {
            f"shop/rules/{RULE}.sql": "SELECT p.purchase_id, c.rate < 5 AS holds "
            "FROM purchase p LEFT JOIN country c ON c.code = p.country"
        }
        one = batch(domain, purchase={"country": ["DE", "FR", "XX"]})
        _, outcomes = validated(one, changes=changes)
        assert outcomes[RULE].failed == 2

    def test_reference_rows_are_judged_once(self, domain: Domain) -> None:
        changes = {
            "shop/rules/country.rate.sql": "SELECT code, rate < 5 AS holds FROM country",
            f"shop/rules/{RULE}.sql": None,
            "shop/closed_but_buying.yaml": None,
            "shop/first_purchase.yaml": "scenario_id: first_purchase\n"
            "linked_requirement_ids: []\nrows: {country: 1}\n",
        }
        registry = shop(changes)
        table = pa.table(
            {
                "code": pa.array(["IT"]),
                "name": pa.array([None], pa.string()),
                "rate": pa.array([Decimal("1.00")], pa.decimal128(6, 2)),
                "test_run_id": pa.array(run_ids(1)),
            }
        )
        validator = Validator(registry.domains["shop"], registry.scenario("first_purchase"))
        validator.check({"country": table})
        second = table.set_column(0, "code", pa.array(["ES"]))
        validator.check({"country": second})
        outcome = {o.check.label: o for o in validator.outcomes()}["country.rate"]
        assert (outcome.judged, outcome.failed) == (4, 1)

    def test_an_error_in_a_query_is_a_failed_result_that_names_it(self, domain: Domain) -> None:
        changes = {
            f"shop/rules/{RULE}.sql": "SELECT purchase_id, CAST(note AS INTEGER) > 0 AS holds "
            "FROM purchase"
        }
        _, outcomes = validated(batch(domain, purchase={"note": ["1", "x", "2"]}), changes=changes)
        assert not outcomes[RULE].passed
        assert "ConversionException" in str(outcomes[RULE].error)

    def test_days_are_utc_days(self, domain: Domain, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TZ", "Pacific/Kiritimati")
        changes = {
            f"shop/rules/{RULE}.sql": "SELECT purchase_id, CAST(paid_at AS DATE) = "
            "DATE '2026-01-31' AS holds FROM purchase"
        }
        late = datetime(2026, 1, 31, 23, 59, tzinfo=UTC)
        _, outcomes = validated(batch(domain, purchase={"paid_at": late}), changes=changes)
        assert outcomes[RULE].passed


class TestVerdict:
    def scenario(self, name: str) -> Scenario:
        return shop().scenario(name)

    def test_accepted(self, domain: Domain) -> None:
        validator, _ = validated(batch(domain))
        found = verdict(self.scenario("first_purchase"), validator.outcomes())
        assert (found.accepted, found.expected_violation, found.failed) == (True, False, ())

    def test_rejected(self, domain: Domain) -> None:
        validator, _ = validated(batch(domain, customer={"name": "x"}))
        found = verdict(self.scenario("first_purchase"), validator.outcomes())
        assert (found.accepted, found.expected_violation) == (False, False)
        assert found.failed == ("customer.schema",)

    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            ({"status": "closed"}, True),
            ({"status": "active"}, False),
            ({"status": "closed", "name": "x"}, False),
        ],
    )
    def test_violates_means_exactly_these(
        self, domain: Domain, changes: dict[str, str], expected: bool
    ) -> None:
        validator, _ = validated(batch(domain, customer=changes), scenario="closed_but_buying")
        found = verdict(self.scenario("closed_but_buying"), validator.outcomes())
        assert not found.accepted
        assert found.expected_violation is expected

    def test_a_rule_that_could_not_be_judged_is_no_expected_violation(self, domain: Domain) -> None:
        one = batch(domain)
        one["customer"] = one["customer"].rename_columns(
            ["customer_id", "name", "state", "joined", "vip", "test_run_id"]
        )
        validator, outcomes = validated(one, scenario="closed_but_buying")
        assert outcomes[RULE].error
        found = verdict(self.scenario("closed_but_buying"), validator.outcomes())
        assert not found.expected_violation


def test_results_do_not_depend_on_how_rows_are_batched(domain: Domain) -> None:
    rows = 40
    random = np.random.default_rng(5)
    cells = {
        "name": random.choice(["FAKE_Ada", "x", "FAKE_Eve"], rows).tolist(),
        "status": random.choice(["active", "closed", "gone"], rows).tolist(),
    }
    whole = batch(domain, rows, customer=cells)
    expected = failed(validated(whole)[1])
    assert set(expected) == {"customer.schema", RULE}
    for size in (1, 7):
        parts = [
            {name: table.slice(start, size) for name, table in whole.items()}
            for start in range(0, rows, size)
        ]
        assert failed(validated(*parts)[1]) == expected


def test_the_bundle_used_here_is_valid() -> None:
    assert set(shop().scenarios) == {
        "shop/" + name.removeprefix("shop/").removesuffix(".yaml")
        for name in FILES
        if name.count("/") == 1 and name.endswith(".yaml") and "domain" not in name
    }
