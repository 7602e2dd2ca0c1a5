"""The pattern subset: reading, rendering, numbering."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atdm_engine.patterns.pattern import parse_pattern

GOOD = [
    r"[0-9]{5}",
    r"^\d{3}-\d{2}$",
    r"[A-Z]{2}-[0-9]{4}",
    r"(AB|CD)?x{1,3}",
    r"a\.b\\c\[\]",
    r"[\]\-^a]{2}",
    r"\w{3}",
    r"(?:x|yy|)z",
    r"((a|b)(c|d)){2}",
    r"[a-c]?[x-z]",
    r"#/~'\"%&,;:<>=@!`",
    r"[a-]b",
    r"",
]
CHARACTERS = st.text(alphabet="ABCDabcdxyz0123-. ^]\\\n\u0661\u00e9#", max_size=8)


@pytest.mark.parametrize("pattern", GOOD)
def test_every_numbered_text_matches_and_keeps_its_number(pattern: str) -> None:
    spec = parse_pattern(pattern)
    indexes = np.unique(np.linspace(0, spec.capacity - 1, 200).astype(np.int64))
    texts = spec.unrank(indexes)
    texts.validate(full=True)
    for text in texts.to_pylist():
        assert re.search(spec.regex, text), text
        assert re.search(spec.regex, text + "\n") is None
        assert re.fullmatch(pattern.removeprefix("^").removesuffix("$"), text), text
    assert (spec.rank(texts) == indexes).all()


@pytest.mark.parametrize("pattern", GOOD)
@given(text=CHARACTERS)
@settings(deadline=None)
def test_the_rendering_means_what_was_written(pattern: str, text: str) -> None:
    plain = re.compile(pattern.removeprefix("^").removesuffix("$"), re.ASCII)
    rendered = re.search(parse_pattern(pattern).regex, text) is not None
    assert rendered == (plain.fullmatch(text) is not None)
    if parse_pattern(pattern).rank(pa.array([text]))[0] >= 0:
        assert rendered


def test_python_and_postgresql_read_the_same_text_here() -> None:
    spec = parse_pattern(r"\d{5}")
    assert spec.regex == r"\A(?:[0-9]{5})\Z"
    assert re.search(spec.regex, "12345\n") is None
    assert re.search(spec.regex, "\u0661\u0662\u0663\u0664\u0665") is None


def test_open_quantifiers_check_without_limit_and_make_up_to_eight_more() -> None:
    spec = parse_pattern("FAKE_.+")
    assert re.search(spec.regex, "FAKE_" + "x" * 500)
    assert spec.node.lengths == (6, 14)
    assert parse_pattern("a*b{2,}").node.lengths == (2, 18)


def test_capacity_counts_the_texts() -> None:
    assert parse_pattern("[0-9]{10}").capacity == 10**10
    assert parse_pattern("(AB|CD)?x{1,3}").capacity == 9
    assert parse_pattern("").capacity == 1


def test_long_patterns_are_cut_into_pieces_that_can_be_numbered() -> None:
    spec = parse_pattern("[a-z0-9]{40}-[0-9]{20}")
    assert len(spec.pieces) > 3
    assert all(piece.capacity <= 2**62 for piece in spec.pieces)
    assert sum(piece.node.lengths[0] for piece in spec.pieces) == 61
    with pytest.raises(ValueError, match="62 bits"):
        spec.unrank(np.array([0]))
    with pytest.raises(ValueError, match="too many texts"):
        _ = parse_pattern("[a-z]{1,50}").pieces


def test_what_does_not_match_has_no_number() -> None:
    spec = parse_pattern("[A-Z]{2}[0-9]")
    texts = pa.array(["AB1", None, "", "ab1", "AB12", "A\u00c91", "AB1"])
    assert (spec.rank(texts) >= 0).tolist() == [True, False, False, False, False, False, True]
    assert spec.rank(texts.slice(6))[0] == spec.rank(texts)[0]


@pytest.mark.parametrize(
    ("pattern", "what"),
    [
        ("[^a]", "negated"),
        ("a(?=b)", "options"),
        ("(a", "ends too early"),
        ("a)", "without an opening"),
        ("[]", "empty class"),
        ("[z-a]", "range"),
        ("[[:alpha:]]", "named class"),
        (r"\s", "escape"),
        (r"a\1", "escape"),
        ("a{3,2}", "quantifier"),
        ("a{9999}", "quantifier"),
        ("a{x}", "quantifier"),
        ("a+?", "second quantifier"),
        ("*a", "here"),
        ("a^b", "here"),
        ("\u00e9", "here"),
        ("[\u00e9]", "here"),
        ("a\n", "here"),
        ("a\\", "ends too early"),
        ("[a", "ends too early"),
    ],
)
def test_what_lies_outside_the_subset_is_refused_by_place(pattern: str, what: str) -> None:
    with pytest.raises(ValueError, match=what) as caught:
        parse_pattern(pattern)
    assert "character " in str(caught.value)
    assert "allowed" in str(caught.value)
