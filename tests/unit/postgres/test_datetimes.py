"""Dates and instants: PostgreSQL's text to Arrow and back, to the ends of its calendar."""

from __future__ import annotations

import pyarrow as pa
import pytest

from atdm_resources.postgres import datetimes

DAY = pa.date32()
INSTANT = pa.timestamp("us", tz="UTC")

DAYS = ["1970-01-01", "2024-02-29", "0001-01-01", "9999-12-31", "0999-03-04"]
ODD_DAYS = ["infinity", "-infinity", "10000-01-01", "5874897-12-31", "4714-11-24 BC"]
INSTANTS = [
    "2024-02-29 10:20:30+00",
    "2024-02-29 10:20:00.00012+00",
    "1969-12-31 23:59:59.5+00",
    "0001-01-01 00:00:00+00",
    "9999-12-31 23:59:59.999999+00",
    "1000-10-10 10:00:10.1+00",
]
ODD_INSTANTS = [
    "infinity",
    "-infinity",
    "10000-01-01 00:00:00+00",
    "294276-12-31 23:59:59.999999+00",
    "294247-01-10 04:00:54.775807+00",
    "294247-01-10 04:00:54.775808+00",
    "4714-11-24 00:00:00+00 BC",
    "0001-12-31 23:59:59.1+00 BC",
    "0005-02-29 12:00:00.000001+00 BC",
]


@pytest.mark.parametrize(
    ("texts", "kind", "usual"),
    [
        (DAYS, DAY, True),
        (ODD_DAYS, DAY, False),
        (INSTANTS, INSTANT, True),
        (ODD_INSTANTS, INSTANT, False),
    ],
)
def test_every_moment_comes_back_as_it_was(
    texts: list[str], kind: pa.DataType, usual: bool
) -> None:
    together = datetimes.from_text(pa.array([*texts, None], pa.string()), kind)
    assert datetimes.as_text(together).to_pylist() == [*texts, None]
    assert datetimes.as_text(together.slice(1)).to_pylist() == [*texts[1:], None]
    assert datetimes.usual(together) == usual
    alone = [datetimes.from_text(pa.array([text]), kind) for text in texts]
    assert [datetimes.as_text(one).to_pylist() for one in alone] == [[text] for text in texts]
    numbers = [datetimes.numbers_of(one).tolist()[0] for one in alone]
    assert numbers == datetimes.numbers_of(together)[:-1].tolist()
    assert len(set(numbers)) == len(texts)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("tomorrow", DAY),
        ("tomorrow", INSTANT),
        ("12024-02-29 10:20:30+02", INSTANT),
        ("12024-02-29 10:20:30+00", DAY),
        ("12024-02-29", INSTANT),
        ("2023-02-29", DAY),
    ],
)
def test_what_is_no_moment_is_refused(text: str, kind: pa.DataType) -> None:
    with pytest.raises(ValueError):
        datetimes.from_text(pa.array([text]), kind)
