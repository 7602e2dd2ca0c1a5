"""The files of a bundle, checked against each other and resolved."""

from __future__ import annotations

import random
from decimal import Decimal

import pyarrow as pa
import pytest

from atdm_engine.bundle.registry import Registry
from atdm_engine.bundle.spec_file import SpecFile
from atdm_engine.errors import AtdmError, ErrorCode, SpecError
from tests.support.shop_bundle import FILES, problems, replaced, shop, spec_files


class TestBuild:
    def test_domain(self) -> None:
        registry = shop()
        assert registry.default_domain == "shop"
        domain = registry.domains["shop"]
        assert list(domain.tables) == ["country", "customer", "purchase"]
        rule = domain.rules["relational.closed_customers_buy_nothing"]
        assert rule.description == "A closed customer has no open purchase."
        assert (rule.table, rule.tables) == ("purchase", ("customer", "purchase"))

    def test_reference_rows_are_typed_and_empty_is_null_only_where_nullable(self) -> None:
        rows = shop().domains["shop"].reference["country"]
        assert rows.column_names == ["code", "name", "rate"]
        assert rows.schema.field("rate").type == pa.decimal128(6, 2)
        assert rows.to_pylist() == [
            {"code": "DE", "name": "Germany", "rate": Decimal("4.90")},
            {"code": "FR", "name": None, "rate": Decimal("7.50")},
        ]

    def test_pools_of_clones_are_gathered_from_every_folder(self) -> None:
        own = SpecFile("own/atdm.yaml", "atdm.yaml", "clones: {shop: {ready: 3, max_age: 2h}}\n")
        registry = Registry.build([*spec_files(), own])
        assert registry.default_domain == "shop"
        pool = registry.clones["shop"]
        assert (pool.ready, pool.baseline, pool.max_age) == (3, "latest", "2h")
        other = SpecFile(
            "third/atdm.yaml", "atdm.yaml", "clones: {shop: {ready: 4}, shp: {ready: 1}}"
        )
        with pytest.raises(SpecError) as caught:
            Registry.build([*spec_files(), own, other])
        assert [(p.file, p.key, p.nearest) for p in caught.value.problems] == [
            ("third/atdm.yaml", "clones.shop", None),
            ("third/atdm.yaml", "clones.shp", "shop"),
        ]

    def test_order_of_files_does_not_matter(self) -> None:
        files = spec_files()
        shuffled = list(files)
        random.Random(3).shuffle(shuffled)
        assert {s.key: s.version for s in Registry.build(shuffled).scenarios.values()} == {
            s.key: s.version for s in Registry.build(files).scenarios.values()
        }

    def test_loose_scenarios_go_to_the_default_or_the_named_domain(self) -> None:
        text = FILES["shop/first_purchase.yaml"]
        loose = text.replace("first_purchase", "loose_one")
        named = text.replace("first_purchase", "loose_two") + "domain: shop\n"
        registry = shop({"one.yaml": loose, "two.yaml": named})
        assert registry.scenario("loose_one").key == "shop/loose_one"
        assert registry.scenario("shop/loose_two").domain == "shop"
        (problem,) = problems({"one.yaml": named.replace("domain: shop", "domain: shpo")})
        assert (problem.key, problem.nearest) == ("domain", "shop")

    def test_files_in_no_place_are_named(self) -> None:
        registry = shop({"shop/tables/other.yml": "x", "shop/README.md": "x"})
        assert len(registry.warnings) == 1
        assert "shop/tables/other.yml" in registry.warnings[0]

    def test_datasets_are_read_where_they_lie(self) -> None:
        text = "description: d\nseed: 1\nmix:\n- {scenario: first_purchase, runs: 3}\n"
        assert shop({"shop/datasets/small.yaml": text}).dataset("shop/small").runs == 3
        wrong = {"shop/datasets/small.yaml": text.replace("first_purchase", "frist_purchase")}
        (problem,) = problems(wrong)
        assert (problem.key, problem.nearest) == ("mix.0.scenario", "first_purchase")

    def test_a_cycle_of_references_is_refused_and_a_self_reference_is_not(self) -> None:
        own = "  purchase_id: {type: text, generate: {id: pur}}\n"
        parent = own + "  follows: {type: text, nullable: true, references: purchase}\n"
        assert problems(replaced("shop/tables/purchase.yaml", own, parent)) == []
        strict = parent.replace("nullable: true, ", "")
        (problem,) = problems(replaced("shop/tables/purchase.yaml", own, strict))
        assert problem.key == "columns.follows.references"
        assert "nullable" in problem.allowed
        key = "  customer_id: {type: text, generate: {id: cust}}\n"
        circle = key + "  last: {type: text, nullable: true, references: purchase}\n"
        (problem,) = problems(replaced("shop/tables/customer.yaml", key, circle))
        assert problem.found == "a circle: customer -> purchase -> customer"

    def test_insert_order_follows_references_then_names(self) -> None:
        table = "description: d\nkey: k\ncolumns:\n  k: {type: text, generate: {id: x}}\n"
        ref = "  r: {type: text, references: %s}\n"
        changes = {
            "shop/tables/aaa.yaml": table + ref % "zzz",
            "shop/tables/zzz.yaml": table,
            "shop/tables/bbb.yaml": table,
        }
        order = list(shop(changes).domains["shop"].tables)
        assert order == ["bbb", "country", "customer", "purchase", "zzz", "aaa"]


class TestScenario:
    def test_constraints_take_what_they_leave_out_from_the_column(self) -> None:
        scenario = shop().scenario("first_purchase")
        status = scenario.constraints["customer_status"]
        assert (status.type, status.values, status.sets) == (
            "text",
            ("active", "closed"),
            (("customer", "status"),),
        )
        assert scenario.constraints["vip"].type == "boolean"
        assert scenario.constraints["vip"].parse("false") is False
        assert scenario.constraints["country"].reference == "country"
        assert scenario.defaults == {
            "customer_status": "active",
            "vip": False,
            "purchase_state": "open",
            "country": "DE",
        }

    def test_default_constraints_win(self) -> None:
        assert shop().scenario("closed_but_buying").defaults["customer_status"] == "closed"

    def test_tables_groups_and_rules(self) -> None:
        scenario = shop().scenario("open_and_paid")
        assert scenario.tables == ("customer", "purchase")
        assert list(scenario.groups) == ["customer", "open_purchase", "paid_purchase"]
        assert scenario.rules == ("relational.closed_customers_buy_nothing",)

    def test_rules_whose_tables_are_not_there_do_not_run(self) -> None:
        text = FILES["shop/first_purchase.yaml"].replace(
            "  purchase: {per: customer, count: 1}\n", ""
        )
        text = text.split("validators")[0]
        assert shop({"shop/first_purchase.yaml": text}).scenario("first_purchase").rules == ()

    def test_exposures_know_the_row_when_every_run_has_it_there(self) -> None:
        exposed = [(e.name, e.table, e.row) for e in shop().scenario("open_and_paid").exposes]
        assert exposed == [
            ("customer_id", "customer", 0),
            ("open_purchase_id", "purchase", 0),
            ("paid_purchase_id", "purchase", 2),
        ]

    @pytest.mark.parametrize(
        ("count", "rows"),
        [
            ("{uniform: [1, 3]}", [0, None]),
            ("{uniform: [0, 3]}", [None, None]),
            ("{poisson: {mean: 2, max: 5}}", [None, None]),
            ("{zipf: {max: 4}}", [0, None]),
            ("{weights: {1: 2, 3: 1}}", [0, None]),
            ("{weights: {0: 0, 2: 1}}", [0, None]),
            ("0", [None, 0]),
        ],
    )
    def test_exposures_after_a_varying_count_must_be_read(
        self, count: str, rows: list[int | None]
    ) -> None:
        changes = replaced("shop/open_and_paid.yaml", "count: 2", f"count: {count}")
        exposes = shop(changes).scenario("open_and_paid").exposes
        assert [e.row for e in exposes if e.table == "purchase"] == rows

    def test_named_exposures(self) -> None:
        text = FILES["shop/open_and_paid.yaml"] + (
            "exposes: {first: purchase.purchase_id, paid: paid_purchase.purchase_id, "
            "name: customer.name}\n"
        )
        exposes = shop({"shop/open_and_paid.yaml": text}).scenario("open_and_paid").exposes
        assert [(e.name, e.group, e.column, e.row) for e in exposes] == [
            ("first", "open_purchase", "purchase_id", 0),
            ("paid", "paid_purchase", "purchase_id", 2),
            ("name", "customer", "name", None),
        ]

    def test_old_generator_lists(self) -> None:
        text = (
            "scenario_id: old\nlinked_requirement_ids: []\n"
            "generators: [generate_customer, generate_purchase]\n"
        )
        scenario = shop({"shop/old.yaml": text}).scenario("old")
        assert {name: group.count for name, group in scenario.groups.items()} == {
            "customer": 1,
            "purchase": 1,
        }


class TestVersion:
    @pytest.mark.parametrize(
        ("name", "old", "new"),
        [
            ("shop/first_purchase.yaml", "count: 1", "count: 2"),
            ("shop/tables/customer.yaml", "constant: FAKE_Ada", "constant: FAKE_Eve"),
            ("shop/tables/country.yaml", "max: 99", "max: 98"),
            ("shop/reference/country.csv", "4.90", "4.91"),
            ("shop/domain.yaml", "FAKE_}", "FAKE}"),
        ],
    )
    def test_what_shapes_data_changes_it(self, name: str, old: str, new: str) -> None:
        before = shop().scenario("first_purchase").version
        after = shop(replaced(name, old, new)).scenario("first_purchase").version
        assert len(before) == 16
        assert before != after

    @pytest.mark.parametrize(
        ("name", "old", "new"),
        [
            ("shop/first_purchase.yaml", "tags: [basket]", "tags: [other]"),
            ("shop/first_purchase.yaml", "Active customer", "A customer"),
            ("shop/tables/customer.yaml", "Somebody who buys", "A buyer"),
            ("shop/open_and_paid.yaml", "count: 2", "count: 3"),
        ],
    )
    def test_what_does_not_shape_data_keeps_it(self, name: str, old: str, new: str) -> None:
        before = shop().scenario("first_purchase").version
        assert shop(replaced(name, old, new)).scenario("first_purchase").version == before


class TestLookUp:
    def test_by_name_and_by_key(self) -> None:
        registry = shop()
        assert registry.scenario("first_purchase") is registry.scenario("shop/first_purchase")

    def test_unknown_names_the_nearest(self) -> None:
        with pytest.raises(AtdmError) as error:
            shop().scenario("first_purchas")
        assert error.value.code is ErrorCode.SCENARIO_NOT_FOUND
        assert error.value.details["nearest"] == "first_purchase"


PURCHASE, CUSTOMER = "shop/tables/purchase.yaml", "shop/tables/customer.yaml"
FIRST, RULE = "shop/first_purchase.yaml", "shop/rules/relational.closed_customers_buy_nothing.sql"


class TestProblems:
    @pytest.mark.parametrize(
        ("file", "old", "new", "line", "key", "nearest"),
        [
            (FIRST, "  purchase: {per", "  purchas: {per", 7, "rows.purchas", "purchase"),
            (FIRST, "per: customer", "per: custmer", 7, "rows.purchase.per", "customer"),
            (FIRST, "count: 1", "count: vip", 7, "rows.purchase.count", None),
            (FIRST, "count: 1", "count: 1, with: {vip: true}", 7, "rows.purchase.with.vip", None),
            (
                FIRST, "count: 1", "count: 1, with: {purchase_state: payed}", 7,
                "rows.purchase.with.purchase_state", "paid",
            ),
            (FIRST, "count: 1", "count: 1, set: {notes: x}", 7, "rows.purchase.set.notes", "note"),
            (
                FIRST, "count: 1", "count: 1, set: {amount: cheap}", 7, "rows.purchase.set.amount",
                None,
            ),
            (
                FIRST, "count: 1", "count: 1, set: {state: payed}", 7, "rows.purchase.set.state",
                "paid",
            ),
            (FIRST, "count: 1", "count: 1, set: {purchase_id: x}", 7,
             "rows.purchase.set.purchase_id", None),
            (FIRST, "closed_customers", "close_customers", 8, "validators.0",
             "relational.closed_customers_buy_nothing"),
            (FIRST, "tags: [basket]", "default_constraints: {vips: true}", 3,
             "default_constraints.vips", "vip"),
            (FIRST, "tags: [basket]", "default_constraints: {vip: maybe}", 3,
             "default_constraints.vip", None),
            (FIRST, "tags: [basket]", "default_constraints: {country: XX}", 3,
             "default_constraints.country", None),
            (FIRST, "tags: [basket]", "exposes: {a: purchase.amonut}", 3, "exposes.a",
             "purchase.amount"),
            (FIRST, "tags: [basket]", "exposes: {a: purchas.amount}", 3, "exposes.a",
             "purchase.amount"),
            (FIRST, "tags: [basket]", "violates: [no.such]", 3, "violates.0", None),
            (PURCHASE, "references: customer", "references: custmer", 5,
             "columns.customer_id.references", "customer"),
            (PURCHASE, "case: state", "case: stat", 12, "columns.paid_at.generate.case", "state"),
            (PURCHASE, "paid: {timestamp", "payed: {timestamp", 12,
             "columns.paid_at.generate.payed", "paid"),
            (PURCHASE, "sets: state", "sets: stat", 15, "constraints.purchase_state.sets", "state"),
            (PURCHASE, "min: 0.01, max: 9999", "min: 0.001, max: 9999", 8, "columns.amount.min",
             None),
            (PURCHASE, "min: 0.01, max: 9999", "min: 9, max: 8", 8, "columns.amount.min", None),
            (PURCHASE, "{constant: open}", "{constant: opne}", 7,
             "columns.state.generate.constant", "open"),
            (PURCHASE, "state <> 'paid'", "stat <> 'paid'", 18, "checks.paid_has_time", None),
            (PURCHASE, "state <> 'paid' OR paid_at IS NOT NULL", "state", 18,
             "checks.paid_has_time", None),
            (PURCHASE, "state <> 'paid' OR", "now() > paid_at OR", 18, "checks.paid_has_time",
             None),
            (PURCHASE, "state <> 'paid' OR", "count(*) > 1 OR", 18, "checks.paid_has_time", None),
            (PURCHASE, "state <> 'paid' OR", "EXISTS (SELECT 1 FROM customer) OR", 18,
             "checks.paid_has_time", None),
            (PURCHASE, "note: {type: text, nullable: true}", "note: {type: text}", 13,
             "columns.note", None),
            (PURCHASE, "note: {type: text, nullable: true}", "test_run_id: {type: text, nullable: "
             "true}", 13, "columns.test_run_id", None),
            (CUSTOMER, "key: customer_id", "key: custmer_id", 2, "key", "customer_id"),
            (CUSTOMER, "min_length: 6", "min_length: 60", 5, "columns.name.min_length", None),
            (CUSTOMER, "{constant: false}", "{constant: 3}", 8, "columns.vip.generate.constant",
             None),
            (CUSTOMER, "{constant: false}", "{faker: name}", 8, "columns.vip.generate", None),
            (CUSTOMER, "min: 2020-01-01", "min: yesterday", 7, "columns.joined.min", None),
            (CUSTOMER, "to: as_of", "to: as_off", 7, "columns.joined.generate.date.to", None),
            ("shop/tables/country.yaml", 'pattern: "[A-Z]{2}", gen', 'pattern: "[^A]", gen',
             4, "columns.code.pattern", None),
            ("shop/domain.yaml", "customer.name", "customer.nam", 3, "markers.customer.nam",
             "customer.name"),
            ("shop/domain.yaml", "customer.name", "custmer.name", 3, "markers.custmer.name",
             "customer.name"),
            ("shop/domain.yaml", "{starts_with: FAKE_}", "{}", 3, "markers.customer.name", None),
            ("atdm.yaml", "shop", "shpo", 1, "default_domain", "shop"),
            ("shop/reference/country.csv", "rate", "rates", 1, "rates", "rate"),
            ("shop/reference/country.csv", "7.5\n", "7.555\n", 3, "rate", None),
            ("shop/reference/country.csv", "FR,,7.5", "FR,7.5", 3, "(row)", None),
            (RULE, "JOIN customer", "JOIN custmer", 3, "(query)", "customer"),
            (RULE, "c.status", "c.stat", 2, "(query)", None),
            (RULE, "AS holds", "AS hold", 0, "(query)", None),
            (RULE, "NOT (", "1 + (", 2, "(query)", None),
            (RULE, "SELECT p.purchase_id", "SELECT p.amount", 0, "(query)", None),
            (RULE, "SELECT p.purchase_id", "SELEC p.purchase_id", 2, "(query)", None),
            (RULE, "p.state = 'open'", "random() < 0.5", 2, "(query)", None),
        ],
    )  # fmt: skip
    def test_each_mistake_is_named_at_its_line(
        self, file: str, old: str, new: str, line: int, key: str, nearest: str | None
    ) -> None:
        found = problems(replaced(file, old, new))
        named = [p for p in found if (p.file, p.key) == (f"bundle/{file}", key)]
        assert named, found
        assert (named[0].line, named[0].nearest) == (line, nearest), named
        assert named[0].found
        assert named[0].allowed

    @pytest.mark.parametrize(
        ("generate", "key", "nearest"),
        [
            ("paid_at: {after: {column: parent.joined, max: 2d}}", None, None),
            ("paid_at: {after: {column: customer.joined, max: 2d}}", None, None),
            (
                "paid_at: {after: {column: parent.joind, max: 2d}}",
                "paid_at.after.column",
                "parent.joined",
            ),
            (
                "paid_at: {after: {column: custmer.joined, max: 2d}}",
                "paid_at.after.column",
                "customer.joined",
            ),
            ("paid_at: {after: {column: parent.name, max: 2d}}", "paid_at.after.column", None),
            ("note: {case: parent.status, active: a, closed: b}", None, None),
            ("note: {case: parent.status, actve: a}", "note.actve", "active"),
            ("note: {case: parent.vip, true: a, false: b, null: c}", None, None),
            ("note: {case: customer_status, active: a}", None, None),
            ("customer_id: {references: buyer}", None, None),
            ("customer_id: {references: country}", "customer_id.references", None),
            ("customer_id: {references: byer}", "customer_id.references", "buyer"),
        ],
    )
    def test_set_may_name_rows_above_and_row_groups(
        self, generate: str, key: str | None, nearest: str | None
    ) -> None:
        text = (
            "scenario_id: first_purchase\nlinked_requirement_ids: []\nrows:\n"
            "  buyer: {table: customer}\n"
            "  purchase:\n    per: buyer\n    set:\n      %s\n"
        )
        found = [(p.key, p.nearest) for p in problems({FIRST: text % generate})]
        assert found == ([(f"rows.purchase.set.{key}", nearest)] if key else [])

    def test_problems_of_several_files_come_together(self) -> None:
        changes = {
            **replaced(FIRST, "per: customer", "per: custmer"),
            **replaced("shop/domain.yaml", "customer.name", "customer.nam"),
            **replaced(RULE, "AS holds", "AS hold"),
            "shop/reference/country.csv": "code\nDE\nDE\n",
        }
        assert {problem.file.removeprefix("bundle/") for problem in problems(changes)} == {
            FIRST,
            "shop/domain.yaml",
            RULE,
            "shop/reference/country.csv",
        }

    def test_two_scenarios_of_one_name_name_both_files(self) -> None:
        (problem,) = problems({"shop/second.yaml": FILES[FIRST]})
        assert problem.file == "bundle/shop/second.yaml"
        assert f"bundle/{FIRST}" in problem.allowed

    def test_two_roots_with_the_same_table_name_both_files(self) -> None:
        files = spec_files()
        twin = [type(f)("other/" + f.name, f.name, f.text) for f in files if f.name == CUSTOMER]
        with pytest.raises(AtdmError) as error:
            Registry.build([*files, *twin])
        assert error.value.code is ErrorCode.SPEC_INVALID
        assert f"bundle/{CUSTOMER}" in str(error.value)
        assert f"other/{CUSTOMER}" in str(error.value)

    def test_a_broken_table_is_not_reported_again_by_what_uses_it(self) -> None:
        found = problems(replaced(CUSTOMER, "key: customer_id", "key: 3"))
        assert {problem.file for problem in found} == {f"bundle/{CUSTOMER}"}

    def test_a_domain_without_its_file(self) -> None:
        found = problems({"shop/domain.yaml": None})
        assert any("domain.yaml" in problem.found for problem in found)

    def test_columns_made_from_each_other(self) -> None:
        old = "  note: {type: text, nullable: true}\n"
        new = (
            "  note: {type: text, generate: {case: memo, a: b, else: c}}\n"
            "  memo: {type: text, generate: {case: note, a: b, else: c}}\n"
        )
        (problem,) = problems(replaced(PURCHASE, old, new))
        assert problem.found == "memo -> note -> memo"

    def test_nonsense_in_every_file_is_a_list_of_problems(self) -> None:
        for name in FILES:
            if name == "atdm.yaml":
                continue
            for text in ("", "\x00\x01\x02", "a: [", "]" * 1000, "\t- x", "ß" * 600_000):
                found = problems({name: text})
                assert found, (name, text[:10])
                assert all(problem.allowed for problem in found)
