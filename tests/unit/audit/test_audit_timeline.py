"""The timeline of the audit page: what took how long, on a scale that fits."""

from __future__ import annotations

from datetime import timedelta

import pytest

from atdm.web.audit.facts import Facts
from atdm.web.audit.page import page_of
from atdm.web.audit.timeline import charts
from atdm.web.audit.view import view_of
from tests.support.audit_facts import MAKING, REQUEST, at, of_request, rejected, story, totals
from tests.support.html_reading import read


def test_the_timeline_has_one_scale_for_making_and_one_for_the_life_since() -> None:
    making, life = charts(story())
    assert [(bar["what"], bar["took"]) for bar in making.bars] == [
        ("Resolved the plan", "1 ms"),
        ("Waited for the generator", "153 ms"),
        ("Generated and checked", "386 ms"),
        ("Loaded into PostgreSQL", "80 ms"),
    ]
    assert making.total == "620 ms"
    assert [bar["what"] for bar in life.bars] == [
        "Ready, waiting to be leased",
        "Leased by ci-4711",
        "Taken back",
    ]
    for chart in (making, life):
        for bar in chart.bars:
            assert float(bar["left"]) >= 0
            assert float(bar["width"]) >= 0.6
            assert float(bar["left"]) + float(bar["width"]) <= 100.01


@pytest.mark.parametrize(
    ("facts", "bars"),
    [
        (rejected(), ["Resolved the plan", "Waited for the generator", "Generated and rejected"]),
        (
            of_request(run_counts={"ready": 3}, totals=totals(MAKING)),
            [*(bar["what"] for bar in charts(story())[0].bars), "Ready, never leased"],
        ),
        (
            of_request(run_counts={"cleaned": 3}),
            [
                *(bar["what"] for bar in charts(story())[0].bars),
                "Until the first lease",
                "From the first of 1 lease on",
                "From the first reset to the last",
            ],
        ),
        (
            of_request(
                making=MAKING[:2],
                totals=totals(MAKING[:2]),
                request={**REQUEST, "status": "pending"},
                queued={"submissions": 3, "first_at": at(-9000)},
            ),
            ["In the queue", "Resolved the plan", "Under way"],
        ),
        (of_request(making=[], totals=[]), []),
    ],
)
def test_the_timeline_follows_what_happened(facts: Facts, bars: list[str]) -> None:
    assert [bar["what"] for chart in charts(facts) for bar in chart.bars] == bars
    read(page_of(facts))


def test_a_request_made_again_shows_its_last_making() -> None:
    again = [*MAKING[:3], *(dict(it, at=it["at"] + timedelta(hours=1)) for it in MAKING)]
    facts = of_request(making=again, queued={"submissions": 1, "first_at": at(-9000)})
    assert charts(facts)[0].total == "620 ms"
    assert ("Made again", "1 time") in view_of(facts)["who"]
