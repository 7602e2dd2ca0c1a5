"""Checks of single values give PostgreSQL's verdicts."""

from __future__ import annotations

import json
import re

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atdm_engine.arrow.types import arrow_type
from atdm_engine.checks.columns import column_checks, luhn_holds
from atdm_engine.patterns.forbidden import Forbidden
from atdm_engine.patterns.pattern import parse_pattern
from atdm_engine.spec.domain import Marker
from atdm_engine.spec.table import ColumnSpec


def failing(cells: list[object], marker: Marker | None = None, **spec: object) -> set[str]:
    """The names of the checks of a column that one of ``cells`` fails."""
    column = ColumnSpec.model_validate({"type": "text", "nullable": True, **spec})
    array = pa.array(cells, arrow_type(column.type))
    # A slice, so that no check can mistake the buffer for the rows.
    padded = pa.concat_arrays([array[:0], array, array])[len(array) :]
    verdicts = {
        check.name: check.passes(padded).to_pylist() for check in column_checks(column, marker, {})
    }
    return {name for name, found in verdicts.items() if False in found}


class TestText:
    @pytest.mark.parametrize("value", ["12345\n", "١٢٣٤٥", "1234", "123456", " 12345", ""])
    def test_patterns_match_the_whole_text_and_ascii_digits_only(self, value: str) -> None:
        assert failing([value], pattern="[0-9]{5}") == {"pattern"}
        assert failing([value], pattern="\\d{5}") == {"pattern"}

    def test_patterns_pass(self) -> None:
        assert failing(["12345", None], pattern="[0-9]{5}") == set()

    def test_lengths_count_characters(self) -> None:
        assert failing(["äöü"], max_length=3) == set()
        assert failing(["äöüß"], max_length=3) == {"max_length"}
        assert failing(["\U0001f600"], max_length=1) == set()
        assert failing([""], min_length=1) == {"min_length"}

    def test_markers(self) -> None:
        assert failing(["FAKE_x"], Marker(starts_with="FAKE_")) == set()
        assert failing(["FAKE"], Marker(starts_with="FAKE_")) == {"marker"}
        assert failing(["fake_x"], Marker(starts_with="FAKE_")) == {"marker"}
        assert failing(["ZZ", None], Marker(equals="ZZ")) == set()
        assert failing(["ZZ "], Marker(equals="ZZ")) == {"marker"}

    def test_nul_and_bytes_that_are_no_utf8_are_refused(self) -> None:
        assert failing(["a\0b"]) == {"plain_text"}
        assert failing(["ä\0"]) == {"plain_text"}
        column = next(column_checks(ColumnSpec(type="text")))
        broken = pa.StringArray.from_buffers(
            2, pa.py_buffer(b"\0\0\0\0\1\0\0\0\4\0\0\0"), pa.py_buffer(b"a\xed\xa0\x80")
        )
        assert column.passes(broken).to_pylist() == [True, False]

    def test_values(self) -> None:
        assert failing(["a", None], values=["a", "b"]) == set()
        assert failing(["A"], values=["a", "b"]) == {"allowed_values"}

    def test_null_passes_everything(self) -> None:
        spec = {"pattern": "x", "min_length": 1, "values": ["x"], "luhn": "valid"}
        assert failing([None, None], Marker(equals="x"), **spec) == set()

    @given(st.lists(st.none() | st.text(max_size=4), max_size=5))
    @settings(max_examples=200, deadline=None)
    def test_any_text_is_judged_as_python_judges_it(self, values: list[str | None]) -> None:
        column = ColumnSpec(type="text", nullable=True, min_length=1, max_length=3, pattern="\\w*")
        checks = {check.name: check for check in column_checks(column)}
        array = pa.array(values, pa.string())
        regex = re.compile(parse_pattern("\\w*").regex)
        expected = {
            "plain_text": [None if v is None else "\0" not in v for v in values],
            "min_length": [None if v is None else len(v) >= 1 for v in values],
            "max_length": [None if v is None else len(v) <= 3 for v in values],
            "pattern": [None if v is None else regex.search(v) is not None for v in values],
        }
        for name, wanted in expected.items():
            found = checks[name].passes(array).to_pylist()
            assert [f is not False for f in found] == [w is not False for w in wanted], name


class TestNumbersAndTimes:
    def test_bounds_are_inclusive(self) -> None:
        assert failing([1, 9], type="integer", min=1, max=9) == set()
        assert failing([0], type="integer", min=1) == {"minimum"}
        assert failing([10], type="integer", max=9) == {"maximum"}

    def test_nan_is_the_greatest_number_and_infinity_is_one(self) -> None:
        nan, inf = float("nan"), float("inf")
        assert failing([nan, inf], type="double", min=0) == set()
        assert failing([-inf], type="double", min=0) == {"minimum"}
        assert failing([nan], type="double", max=0) == {"maximum"}
        assert failing([inf], type="double", max=0) == {"maximum"}
        assert failing([nan, inf, -inf], type="double") == set()

    def test_the_calendar_is_postgresqls(self) -> None:
        column = next(column_checks(ColumnSpec(type="date")))
        days = pa.array([-2_440_589, -2_440_588, 2_145_042_905, 2_145_042_906, None], pa.int32())
        verdict = column.passes(days.view(pa.date32())).to_pylist()
        assert verdict == [False, True, True, False, None]
        stamps = next(column_checks(ColumnSpec(type="timestamptz")))
        first = -2_440_588 * 86_400_000_000
        times = pa.array([first - 1, first, 2**63 - 1]).view(pa.timestamp("us", "UTC"))
        assert stamps.passes(times).to_pylist() == [False, True, True]


class TestOtherTypes:
    def test_uuid(self) -> None:
        good = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"
        assert failing([good, None], type="uuid") == set()
        for bad in (good.upper(), good[:-1], good + "\n", "x" * 36):
            assert failing([bad], type="uuid") == {"uuid"}, bad

    def test_json(self) -> None:
        good = [
            '{"a":1}',
            "1",
            '"x"',
            "null",
            "[]",
            json.dumps("\\u0000"),
            '"nan"',
            '"\\ud83d\\ude00"',
        ]
        assert failing([*good, None], type="jsonb") == set()
        for bad in (
            "{",
            "",
            "{'a': 1}",
            '"\\u0000"',
            "NaN",
            "[1,]",
            "[Infinity]",
            '{"a":"\\u0000"}',
            '"\\ud800"',
        ):
            assert failing([bad], type="jsonb") == {"json"}, bad

    def test_arrays_are_judged_by_their_elements(self) -> None:
        assert failing([["a", None], [], None], type="text[]") == set()
        assert failing([["a"], ["b\0"]], type="text[]") == {"plain_text"}


class TestLuhn:
    @pytest.mark.parametrize("text", ["4539578763621486", "79927398713", "0", "00", "18"])
    def test_holds(self, text: str) -> None:
        assert luhn_holds(pa.array([text])).to_pylist() == [True]

    @pytest.mark.parametrize("text", ["79927398710", "1", "", "18a", "١٨", "1 8", "-18", "18\n"])
    def test_does_not_hold(self, text: str) -> None:
        assert luhn_holds(pa.array([text])).to_pylist() == [False]

    @given(st.lists(st.none() | st.text("0123456789ab", max_size=12), min_size=1, max_size=8))
    @settings(max_examples=200, deadline=None)
    def test_like_the_definition(self, texts: list[str | None]) -> None:
        def holds(text: str) -> bool:
            if not text or not set(text) <= set("0123456789"):
                return False
            doubled = [
                sum(divmod(int(d) * 2, 10)) if place % 2 else int(d)
                for place, d in enumerate(reversed(text))
            ]
            return sum(doubled) % 10 == 0

        array = pa.array(["x", *texts])[1:]
        expected = [None if text is None else holds(text) for text in texts]
        assert luhn_holds(array).to_pylist() == expected


class TestForbidden:
    SSN = "[0-9]{3}-[0-9]{2}-[0-9]{4}"

    def test_found_anywhere(self) -> None:
        array = pa.array(["x123-45-6789y", "123-45-678", None, "", "123-45-6789"])
        assert Forbidden(self.SSN).absent(array).to_pylist() == [False, True, None, True, False]

    def test_an_occurrence_across_two_texts_is_none(self) -> None:
        array = pa.array(["a123-4", "5-6789"])
        assert Forbidden(self.SSN).absent(array).to_pylist() == [True, True]

    @given(
        st.lists(st.none() | st.text("019-x", max_size=14), max_size=6),
        st.sampled_from([SSN, "1+", "(x|01)-", "0{2}1", "[01]-[01]"]),
    )
    @settings(max_examples=300, deadline=None)
    def test_like_a_search_text_by_text(self, texts: list[str | None], pattern: str) -> None:
        array = pa.array(["9-9", *texts], pa.string())[1:]
        found = Forbidden(pattern).absent(array).to_pylist()
        regex = re.compile(parse_pattern(pattern).node.render())
        expected = [text is None or regex.search(text) is None for text in texts]
        assert [verdict is not False for verdict in found] == expected
