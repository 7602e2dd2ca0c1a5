"""Every problem of a file at once, at its line, in words."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atdm_engine.bundle.spec_file import parse_file
from atdm_engine.bundle.yaml import MAX_CHARACTERS, YamlProblem, read_yaml
from atdm_engine.errors import Problem, SpecError
from atdm_engine.generators.case import Case
from atdm_engine.generators.choice import Choice
from atdm_engine.spec.domain import BundleSpec, DomainSpec
from atdm_engine.spec.scenario import RowGroup, ScenarioSpec, UniformCount
from atdm_engine.spec.table import TableSpec

SCENARIO = "scenario_id: a\nlinked_requirement_ids: []\n"
TABLE = "description: d\nkey: a\ncolumns:\n  a: {type: text, generate: {id: x}}\n"


def found(model: type, text: str) -> list[tuple[int, str, str, str, str | None]]:
    with pytest.raises(SpecError) as error:
        parse_file(model, text, "f.yaml")
    assert all(problem.file == "f.yaml" for problem in error.value.problems)
    return [(p.line, p.key, p.found, p.allowed, p.nearest) for p in error.value.problems]


def problems_of(model: type, text: str) -> tuple[Problem, ...]:
    """What is wrong with a text, nothing when it is a model."""
    try:
        parse_file(model, text, "f.yaml")
    except SpecError as error:
        return error.problems
    return ()


class TestYaml:
    def test_scalars_are_read_as_in_yaml_1_2(self) -> None:
        text = (
            "a: no\nb: 00000\nc: 2026-01-31\nd: 2026-01-31T12:00:00+02:00\ne: 1.5\nf: ~\n"
            "g: true\nh: '1'\ni: 12\nj: 2026-02-31\nk: 12:30\n"
        )
        assert read_yaml(text).data == {
            "a": "no",
            "b": "00000",
            "c": date(2026, 1, 31),
            "d": datetime(2026, 1, 31, 10, tzinfo=UTC),
            "e": 1.5,
            "f": None,
            "g": True,
            "h": "1",
            "i": 12,
            "j": "2026-02-31",
            "k": "12:30",
        }

    def test_lines_of_keys_and_items(self) -> None:
        lines = read_yaml("a:\n  b:\n    - 1\n    - {c: 2}\n").lines
        assert lines[("a", "b")] == 2
        assert lines[("a", "b", "1")] == 4
        assert lines[("a", "b", "1", "c")] == 4

    def test_anchors_and_merges(self) -> None:
        data = read_yaml("a: &x {k: 1, l: 2}\nb: *x\nc: {<<: *x, l: 3}\n").data
        assert data["b"] == {"k": 1, "l": 2}
        assert data["c"] == {"l": 3, "k": 1}

    def test_a_problem_in_an_alias_stands_where_it_is_written(self) -> None:
        document = read_yaml("a: &x\n  k: 1\nb: *x\n")
        assert [document.line(path) for path in (("a", "k"), ("b", "k"), ("b",))] == [2, 2, 3]

    @pytest.mark.parametrize(
        ("text", "line", "word"),
        [
            ("a: 1\na: 2\n", 2, "second time (first on line 1)"),
            ("a:\n  true: 1\n  1: 2\n", 3, "second time"),
            ("a:\n\tb: 1\n", 2, "a tab"),
            ("a: [1,\nb: }", 2, "did not find expected"),
            ("a: 1\n---\nb: 2\n", 2, "another document"),
            ("a: !!python/object:os.system x\n", 1, "the tag"),
            ("a: \x00\n", 1, "control characters"),
            ("a: \ud800\n", 1, "surrogate"),
            ("a: *b\n", 1, "undefined alias 'b'"),
            ("a: &b 1\nc: &b 2\n", 2, "duplicate anchor 'b'"),
            ("a: &b [*b]\n", 1, "more than 100 levels"),
            ("[" * 100_000, 1, "more than 100 levels"),
            ("x" * (MAX_CHARACTERS + 1), 1, "characters"),
            ("? [a]\n: 1\n", 1, "as a key"),
        ],
    )
    def test_unreadable_texts_say_why(self, text: str, line: int, word: str) -> None:
        with pytest.raises(YamlProblem) as error:
            read_yaml(text)
        assert error.value.line == line
        assert word in error.value.found

    def test_an_alias_bomb_is_refused(self) -> None:
        text = "a0: &a0 [1, 1]\n" + "".join(
            f"a{i + 1}: &a{i + 1} [*a{i}, *a{i}, *a{i}, *a{i}]\n" for i in range(30)
        )
        with pytest.raises(YamlProblem, match="values"):
            read_yaml(text)

    @given(st.text(max_size=200))
    @settings(max_examples=300, deadline=None)
    def test_any_text_gives_a_document_or_a_problem(self, text: str) -> None:
        line, found = 1, "a document"
        try:
            read_yaml(text)
        except YamlProblem as problem:
            line, found = problem.line, problem.found
        assert line >= 1
        assert found


class TestProblems:
    def test_all_of_a_file_at_once_with_lines_and_nearest_spelling(self) -> None:
        text = (
            "description: d\nkey: a\ncolums: 3\ncolumns:\n"
            "  a: {type: text, generate: {idd: x}}\n"
            "  b: {type: txt, nulable: true}\n"
            "  c: {type: text, luhn: maybe, values: [a, true]}\n"
            "  d: {type: text, generate: {case: b, x: {faker: {provider: p, poll: 1}}}}\n"
        )
        problems = found(TableSpec, text)
        assert [(line, key, nearest) for line, key, _, _, nearest in problems] == [
            (3, "colums", "columns"),
            (5, "columns.a.generate", "id"),
            (6, "columns.b.type", "text"),
            (6, "columns.b.nulable", "nullable"),
            (7, "columns.c.values.1", None),
            (7, "columns.c.luhn", None),
            (8, "columns.d.generate.x.faker.poll", "pool"),
        ]
        by_key = {key: (was, allowed) for _, key, was, allowed, _ in problems}
        assert by_key["columns.c.luhn"] == ("'maybe'", "one of valid, invalid")
        assert by_key["columns.c.values.1"][0] == "true"
        assert "in quotes" in by_key["columns.c.values.1"][1]
        assert by_key["columns.d.generate.x.faker.poll"][1] == "the keys provider, locale, pool"

    def test_a_column_called_like_a_generator_is_no_generator(self) -> None:
        problems = found(TableSpec, TABLE + "  date: {type: text, generate: {date: {from: 1}}}\n")
        assert [(line, key) for line, key, *_ in problems] == [
            (5, "columns.date.generate.date.from"),
            (5, "columns.date.generate.date.to"),
        ]

    def test_missing_key_and_alternatives(self) -> None:
        text = "scenario_id: a\nrows:\n  a: x\n  b: {count: {zpif: {max: 3}}}\n  c: {count: -1}\n"
        assert [(*p[:2], p[4]) for p in found(ScenarioSpec, text)] == [
            (1, "linked_requirement_ids", None),
            (3, "rows.a", None),
            (4, "rows.b.count", "zipf"),
            (5, "rows.c.count", None),
        ]

    def test_a_generator_needs_exactly_one_keyword(self) -> None:
        text = TABLE.replace("{id: x}", "{id: x, constant: 1}")
        assert found(TableSpec, text)[0][3].startswith("exactly one generator keyword is needed")

    @pytest.mark.parametrize(
        ("text", "word"),
        [("", "an empty file"), ("# only\n", "an empty file"), ("[1]", "a list of 1"), ("7", "7")],
    )
    def test_files_that_are_no_mapping(self, text: str, word: str) -> None:
        ((line, key, was, allowed, _),) = found(DomainSpec, text)
        assert (line, key, was) == (1, "(file)", word)
        assert allowed == "a mapping (key: value) with description"

    def test_a_key_that_no_bundle_has(self) -> None:
        problems = found(BundleSpec, "default_domian: x\n")
        assert [(p[1], p[4]) for p in problems] == [("default_domian", "default_domain")]

    @pytest.mark.parametrize(
        ("pool", "key"),
        [
            ("{}", "ready"),
            ("{ready: 0}", "ready"),
            ("{ready: 1001}", "ready"),
            ("{ready: '2'}", "ready"),
            ("{ready: 2, max_age: 1 day}", "max_age"),
            ("{ready: 2, baseline: ../x}", "baseline"),
            ("{ready: 2, size: 2}", "size"),
        ],
    )
    def test_a_pool_of_clones_is_read_strictly(self, pool: str, key: str) -> None:
        problems = found(BundleSpec, f"clones:\n  shop: {pool}\n")
        assert [p[1] for p in problems] == [f"clones.shop.{key}"]

    def test_rows_and_generators_exclude_each_other(self) -> None:
        for text in (SCENARIO, SCENARIO + "rows: {a: 1}\ngenerators: [generate_a]\n"):
            assert found(ScenarioSpec, text)[0][3] == "exactly one of rows and generators is needed"

    @given(st.text(max_size=120), st.sampled_from([ScenarioSpec, TableSpec, DomainSpec]))
    @settings(max_examples=200, deadline=None)
    def test_any_text_is_a_model_or_a_spec_error(self, text: str, model: type) -> None:
        for problem in problems_of(model, text):
            assert problem.line >= 1
            assert problem.allowed

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["type", "generate", "case", "count", "rows", "columns", "a"]),
                    inner,
                    max_size=4,
                )
            ),
            max_leaves=12,
        )
    )
    @settings(max_examples=200, deadline=None)
    def test_any_structure_is_a_model_or_a_spec_error(self, data: object) -> None:
        for model in (ScenarioSpec, TableSpec):
            assert {problem.line for problem in problems_of(model, json.dumps(data))} <= {1}


class TestSpecModels:
    def test_the_source_systems_file_loads_unchanged(self) -> None:
        text = (
            "scenario_id: old\ndescription: Old file.\ntags: [x]\n"
            "default_constraints: {claim_status: denied}\n"
            "generators: [generate_plan, generate_member]\nvalidators: [relational.x]\n"
            "linked_requirement_ids: []\n"
        )
        model = parse_file(ScenarioSpec, text, "f.yaml").model
        groups = model.row_groups()
        assert list(groups) == ["plan", "member"]
        assert groups["member"] == RowGroup(table="member", count=1)

    def test_requirement_ids_must_be_a_list(self) -> None:
        text = "scenario_id: a\nlinked_requirement_ids: FR-1\nrows: {a: 1}\n"
        assert found(ScenarioSpec, text)[0][1:4] == ("linked_requirement_ids", "'FR-1'", "a list")

    def test_short_and_long_row_groups(self) -> None:
        text = SCENARIO + "rows:\n  a: 2\n  b: {table: t, count: {uniform: [1, 3]}, with: {k: v}}\n"
        groups = parse_file(ScenarioSpec, text, "f.yaml").model.row_groups()
        assert groups["a"] == RowGroup(table="a", count=2)
        assert isinstance(groups["b"].count, UniformCount)
        assert groups["b"].constraints == {"k": "v"}

    def test_case_and_choice_keys_of_other_types_stand_for_their_texts(self) -> None:
        text = TABLE + (
            "  b: {type: text, generate: {case: a, true: x, 2: y, else: z}}\n"
            "  c: {type: integer, generate: {choice: {1: 3, 2: 1}}}\n"
        )
        columns = parse_file(TableSpec, text, "f.yaml").model.columns
        assert isinstance(columns["b"].generate, Case)
        assert dict(columns["b"].generate.branches) == {"true": "x", "2": "y"}
        assert isinstance(columns["c"].generate, Choice)
        assert columns["c"].generate.choice == {"1": 3, "2": 1}

    def test_models_are_immutable(self) -> None:
        model = parse_file(TableSpec, TABLE, "f.yaml").model
        with pytest.raises(ValueError, match="frozen"):
            model.description = "other"  # type: ignore[misc]
