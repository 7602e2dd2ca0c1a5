"""Frozen word lists."""

from __future__ import annotations

import pytest

from atdm_engine.errors import SpecError
from atdm_engine.spec.vocabulary import draw_words, format_words, parse_words

WORDS = ("Ann", "Jörg", "Mary Lou")


def test_a_file_gives_its_words_back() -> None:
    text = format_words(WORDS)
    assert text.startswith("# sha256: ")
    assert parse_words("en_US/first_name.txt", text) == WORDS


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("Ann", "Anna"),
        lambda text: text + "Zoe\n",
        lambda text: text.replace("# sha256: ", "# "),
        lambda text: "",
    ],
)
def test_a_changed_file_is_refused(change: object) -> None:
    assert callable(change)
    with pytest.raises(SpecError) as caught:
        parse_words("en_US/first_name.txt", change(format_words(WORDS)))
    assert caught.value.problems[0].file == "en_US/first_name.txt"
    assert caught.value.problems[0].line == 1


@pytest.mark.parametrize(
    ("words", "found"),
    [(("a", "a"), "twice"), (("a ",), "'a '"), ((), "none"), (("a", "", "b"), "''")],
)
def test_odd_words_are_refused(words: tuple[str, ...], found: str) -> None:
    with pytest.raises(SpecError, match=found):
        parse_words("x.txt", format_words(words))


def test_drawing_is_deterministic_and_without_repeats() -> None:
    words = draw_words("first_name", "en_US", 50)
    assert words == draw_words("first_name", "en_US", 50)
    assert len(set(words)) == 50
    assert words[:20] == draw_words("first_name", "en_US", 20)
    assert len(draw_words("boolean", "en_US", 10)) == 2
    with pytest.raises(ValueError, match="no provider"):
        draw_words("no_such_thing", "en_US", 1)
    assert parse_words("x", format_words(words)) == words
