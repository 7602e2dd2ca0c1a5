"""How the audit page writes lengths, texts, times and sizes."""

from __future__ import annotations

from datetime import timedelta

import pytest

from atdm.web.audit.wording import length, moment, size, text


@pytest.mark.parametrize(
    ("span", "said"),
    [
        (timedelta(0), "0 ms"),
        (timedelta(seconds=-3), "0 ms"),
        (timedelta(milliseconds=999.4), "999 ms"),
        (timedelta(milliseconds=999.6), "1.0 s"),
        (timedelta(seconds=59.94), "59.9 s"),
        (timedelta(seconds=59.96), "1 min"),
        (timedelta(seconds=3599), "59 min 59 s"),
        (timedelta(hours=4, minutes=12), "4 h 12 min"),
        (timedelta(days=3, hours=4, minutes=50), "3 d 4 h"),
    ],
)
def test_lengths(span: timedelta, said: str) -> None:
    assert length(span) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, ""),
        (True, "true"),
        ("a" * 300, "a" * 199 + "\u2026"),
        ({"b": 1, "a": [None]}, '{"a": [null], "b": 1}'),
        ("x\u202ey\x00z\ufeff", "x\\u202ey\\u0000z\\ufeff"),
        ("two\nlines", "two\nlines"),
    ],
)
def test_texts(value: object, said: str) -> None:
    assert text(value) == said


def test_times_and_sizes() -> None:
    assert moment("2026-11-20T10:30:00+02:00") == "2026-11-20 08:30:00 UTC"
    assert moment("soon") == "soon"
    assert moment(None) == ""
    assert [size(n) for n in (None, 0, 999, 1000, 99_600, 1_234_567, 10**15)] == [
        "", "0 B", "999 B", "1.0 kB", "100 kB", "1.2 MB", "1,000.0 TB",
    ]  # fmt: skip
