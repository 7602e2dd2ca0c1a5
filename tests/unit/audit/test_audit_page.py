"""The audit page as a function of facts: complete, safe, small, the same every time."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import re
from typing import Any

import pytest

from atdm.web.audit.answers import answers, status
from atdm.web.audit.facts import Facts
from atdm.web.audit.page import page_of
from atdm.web.audit.view import view_of
from tests.support.audit_facts import (
    CHECKS,
    LATER,
    MAKING,
    REQUEST,
    RUN,
    RUN_ROW,
    SEAL,
    TABLES,
    at,
    event,
    of_request,
    rejected,
    story,
    totals,
)
from tests.support.html_reading import read

EVIL = (
    "\"><script>alert(1)</script><img src=x onerror=alert(2)>'{{ 7*7 }}{% raw %}&lt;\u202egnp\x01"
)


def answer(facts: Facts, number: int) -> tuple[str, str]:
    from atdm.web.audit.view import _checks

    found = answers(facts, _checks(facts), 160)[number]
    return found["answer"], found["tone"]


def test_equal_facts_give_equal_pages() -> None:
    assert page_of(story()) == page_of(story())


def test_the_page_asks_nothing_of_the_network_and_runs_nothing() -> None:
    html = page_of(story())
    assert html.startswith("<!DOCTYPE html>")
    assert not re.search(r"https?:|//[a-z]|\bsrc=|\bhref=|<script|@import|url\(|\son\w+=", html)
    style = html[html.index("<style>") + 7 : html.index("</style>")]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'sha256-{digest}'" in html
    assert len(html.encode()) < 40_000


@pytest.mark.parametrize(
    "said",
    [
        "human:ann.lee", "through cli", "Regression of the denial letter, build 4711",
        "healthcare/claim_denial_active_member", "Active member with one denied claim",
        "FR-001, FR-005, FR-010", "release-4711", RUN, REQUEST["request_id"],
        "denial_reason invalid_procedure_code", "331513848465277984 (derived from the request)",
        "2ab1bdb10dc7db96", REQUEST["content_hash"], "11 checks passed", "14 rows judged",
        "domain.denial_requires_invalid_code claim passed 1 0", f"elig-{RUN}",
        "/builds/4711/automation/fixtures/denial.json", "Captured as baseline nightly-2026-11-20",
        "test_appeal_reopens_the_claim", "1 failed, 1 passed",
        "6 (claim 2, eligibility 1, member 1",
        "1 (claim 1)", "human:ann.lee through pytest", "4,188 to 4,197", SEAL["hash"],
        "computed again for seals 1 to 4,197: the chain holds", "Leased by ci-4711", "3 min 11 s",
        "10 in the order they were written", "to ci-4711 until", "claims_test", "d4122cb7-e992",
        "0 rows in the target now",
    ],
)  # fmt: skip
def test_the_page_tells_the_whole_story(said: str) -> None:
    assert said in read(page_of(story())).text


def test_nothing_from_the_database_becomes_markup() -> None:
    facts = story(
        request={
            **REQUEST,
            **dict.fromkeys(("reason", "label", "invoker", "source", "dagster_run_id"), EVIL),
            "given": {EVIL: EVIL},
            "effective": {EVIL: EVIL, "b": {"c": EVIL}},
        },
        run={**RUN_ROW, "owner": EVIL},
        runs=[{**RUN_ROW, "owner": EVIL}],
        scenario={**dict(story().scenario or {}), "description": EVIL, "tags": [EVIL]},
        making=[
            *MAKING[:4],
            event(
                4,
                "seed_completed",
                at(620),
                outputs={"records_created": [{"kind": EVIL, "primary_key": f"m-{RUN}{EVIL}"}]},
            ),
        ],
        first=[
            event(1, EVIL, at(1), status=EVIL, invoker=EVIL, inputs={"constraints": {"a": EVIL}})
        ],
        fixtures=[event(1, "fixtures_emitted", at(1), outputs={"fixtures": {EVIL: EVIL}})],
        domain_events=[
            event(1, "restore_failed", at(1), inputs={"baseline_id": EVIL, "reason": EVIL})
        ],
        resets=[{**story().resets[0], "invoker": EVIL, "strategy": EVIL, "message": EVIL}],
        outcomes=[{**story().outcomes[0], "nodeid": EVIL, "requirement_ids": [EVIL]}],
        dagster={
            "note": EVIL,
            "checks": [
                {
                    **CHECKS[0],
                    "validator": EVIL,
                    "decision": "failed",
                    "message": EVIL,
                    "cases": [{EVIL: EVIL}],
                }
            ],
        },
        database=EVIL,
    )
    html = page_of(facts)
    reader = read(html)
    assert "<script>alert(1)</script>" in reader.text
    assert "{{ 7*7 }}" in reader.text
    assert not re.search(r"\b49\b", reader.text)
    assert "\u202e" not in html
    assert "\x01" not in html
    assert "\\u202e" in reader.text


def test_a_page_stays_small_whatever_there_is() -> None:
    long = "\U0001d4b3<&" * 4000
    cases = [{f"{column}{long}": long for column in range(40)} for _ in range(20)]
    checks = [
        {
            **CHECKS[0],
            "validator": f"{n}.{long}",
            "decision": "failed",
            "message": long,
            "cases": cases,
        }
        for n in range(300)
    ]
    tables = {
        f"{n}{long}": {"rows": 10**9, "bytes": 10**15, "content_hash": long} for n in range(300)
    }
    events = [event(n, long, at(n), invoker=long, source=long) for n in range(40)]
    facts = of_request(
        request={
            **REQUEST,
            "reason": long,
            "runs": 100_000,
            "tables": tables,
            "effective": {f"{n}{long}": long for n in range(200)},
            "given": {f"{n}{long}": long for n in range(200)},
        },
        first=events,
        last=events,
        totals=[*totals(LATER), {"action": "x", "n": 400_000, "first_at": at(1), "last_at": at(2)}],
        runs=[{**RUN_ROW, "owner": long}] * 24,
        run_counts={"cleaned": 100_000},
        in_target={name: {"rows": 9, "keys": [long] * 24} for name in tables},
        resets=[dict(story().resets[0], invoker=long, deleted=dict.fromkeys(tables, 9))] * 12,
        domain_events=[event(1, "restore_failed", at(1), inputs={"reason": long})] * 13,
        outcomes=[dict(story().outcomes[0], nodeid=long)] * 30,
        outcome_counts={"failed": 30_000},
        dagster={"checks": checks},
    )
    html = page_of(facts)
    assert len(html.encode()) < 100_000
    reader = read(html)
    for said in ("more checks", "more tables", "more test runs", "more constraints", "more tests",
                 "more events between, not shown", "and earlier ones"):  # fmt: skip
        assert said in reader.text, said


def test_what_is_cut_is_counted() -> None:
    checks = [{**CHECKS[0], "validator": f"c{n}"} for n in range(75)]
    shown = view_of(story(dagster={"checks": checks}))["checks"]
    assert (len(shown["lines"]), shown["more"]) == (60, "and 15 more checks")
    many = [event(n, "leased", at(n)) for n in range(80)]
    facts = story(first=many[:40], last=many[40:], totals=[{**totals(many)[0], "n": 300_080}])
    events = view_of(facts)["events"]
    shown_ids = [line["id"] for line in (*events["first"], *events["last"])]
    assert shown_ids == [4200 + n for n in (*range(20), *range(60, 80))]
    assert events["between"] == 300_040
    assert "300,040 more events between" in read(page_of(facts)).text


@pytest.mark.parametrize("number", [1, 2, 39, 40, 41, 60, 80])
def test_events_are_shown_once_each_in_order(number: int) -> None:
    many = [event(n, "leased", at(n)) for n in range(number)]
    events = view_of(story(first=many[:40], last=many[40:], totals=totals(many)))["events"]
    ids = [line["id"] for line in (*events["first"], *events["last"])]
    assert ids == sorted(set(ids))
    assert len(ids) == min(number, 40)
    assert len(ids) + events["between"] == number


LEFT = {name: {"rows": 1, "keys": []} for name in TABLES}


@pytest.mark.parametrize(
    ("facts", "shown", "made", "valid", "gone"),
    [
        (story(), ("cleaned", "ok"), "5 rows", "11 checks passed", ("Yes", "ok")),
        (
            story(in_target=LEFT),
            ("cleaned", "ok"),
            "5 rows",
            "11 checks passed",
            ("Rows are left", "bad"),
        ),
        (
            story(run={**RUN_ROW, "status": "leased", "ended_at": None}, in_target=LEFT),
            ("leased", "live"),
            "5 rows",
            "11 checks passed",
            ("Not yet", "live"),
        ),
        (
            story(
                run={**RUN_ROW, "status": "leased", "ended_at": None, "expires_at": at(1000)},
                in_target=LEFT,
            ),
            ("leased", "live"),
            "5 rows",
            "11 checks passed",
            ("Not yet", "warn"),
        ),
        (
            story(run={**RUN_ROW, "status": "expired"}),
            ("expired", "warn"),
            "5 rows",
            "11 checks passed",
            ("Yes", "ok"),
        ),
        (
            story(
                run={**RUN_ROW, "status": "ready", "leased_at": None, "ended_at": None},
                in_target=LEFT,
            ),
            ("ready", "live"),
            "5 rows",
            "11 checks passed",
            ("No", "live"),
        ),
        (
            rejected(),
            ("rejected", "bad"),
            "Nothing",
            "1 of 12 checks failed",
            ("Nothing was loaded", "ok"),
        ),
        (
            rejected(expected=True),
            ("rejected as expected", "ok"),
            "Nothing",
            "Broken on purpose",
            ("Nothing was loaded", "ok"),
        ),
        (
            of_request(
                request={**REQUEST, "status": "rolled_back", "tables": {}, "error": {"message": 1}},
                making=MAKING[:3],
                dagster={"note": "unreachable"},
            ),
            ("rolled back", "bad"),
            "Nothing",
            "Not known",
            ("Nothing was loaded", "ok"),
        ),
        (
            of_request(
                request={**REQUEST, "status": "pending", "tables": {}, "finished_at": None},
                making=MAKING[:3],
                dagster={"note": "no Dagster run"},
                scenario=None,
            ),
            ("pending", "live"),
            "Nothing yet",
            "Not known",
            ("Nothing was loaded", "ok"),
        ),
        (
            of_request(
                request={**REQUEST, "runs": 5},
                run_counts={"cleaned": 2, "ready": 1, "leased": 2},
                in_target=LEFT,
            ),
            ("ready", "live"),
            "5 rows",
            "11 checks passed",
            ("2 of 5 runs", "live"),
        ),
        (
            of_request(request={**REQUEST, "status": "retired"}, run_counts={}),
            ("retired", "ok"),
            "5 rows",
            "11 checks passed",
            ("Yes", "ok"),
        ),
    ],
)  # fmt: skip
def test_every_state_has_its_answers(
    facts: Facts, shown: tuple[str, str], made: str, valid: str, gone: tuple[str, str]
) -> None:
    assert status(facts) == shown
    assert answer(facts, 1)[0] == made
    assert answer(facts, 2)[0] == valid
    assert answer(facts, 3) == gone
    read(page_of(facts))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ("Yes", "ok")),
        ({"sealed": 4}, ("4 of 10 events", "warn")),
        (
            {"sealed": 0, "first_seal": None, "last_seal": None, "hash": None, "verified": None,
             "sealed_at": None, "head": 0},
            ("Not yet", "warn"),
        ),
        ({"verified": {"from_seal": 1, "to_seal": 9, "broken": 7}}, ("BROKEN", "bad")),
    ],
)  # fmt: skip
def test_the_seal_has_its_states(changes: dict[str, Any], expected: tuple[str, str]) -> None:
    facts = story(seal={**SEAL, **changes})
    assert answer(facts, 4) == expected
    read(page_of(facts))


def test_rows_that_break_a_rule_are_shown_and_counted() -> None:
    words = read(page_of(rejected())).text
    assert "relational.eligibility_status_matches_member" in words
    assert f"elig-{RUN}-4" in words
    assert f"elig-{RUN}-5" not in words
    assert "and 4 more rows" in words
    without = dataclasses.replace(rejected(), dagster={"note": "its storage cannot be reached"})
    words = read(page_of(without)).text
    assert f"elig-{RUN}-2" in words  # the catalog's own sample
    assert "its storage cannot be reached" in words


def test_a_run_of_a_large_request_has_the_keys_that_are_still_there() -> None:
    counts = event(
        4, "seed_completed", at(620), outputs={"records_created": [{"kind": "plan", "count": 900}]}
    )
    facts = story(
        request={**REQUEST, "runs": 900},
        run={**RUN_ROW, "status": "ready", "leased_at": None, "ended_at": None, "deleted": None},
        making=[*MAKING[:4], counts],
        in_target={"plan": {"rows": 30, "keys": [f"plan-{RUN}-{n}" for n in range(24)]}},
    )
    (line,) = view_of(facts)["records"]["lines"]
    assert (line["rows"], line["there"], line["more"]) == ("30", "30", "and 18 more keys")
    assert line["ids"][0] == f"plan-{RUN}-0"
    assert "One test run" in read(page_of(facts)).text


def test_tables_that_could_not_be_counted_say_so() -> None:
    facts = story(in_target={name: {"rows": None, "keys": []} for name in TABLES})
    words = read(page_of(facts)).text
    assert "not counted" in words
    assert "its rows were not counted" in words
    assert answer(facts, 3) == ("Yes", "ok")
