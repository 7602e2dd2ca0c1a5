"""The five questions of an auditor and their answers, at the top of the audit page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from atdm.web.audit.facts import Facts, Row
from atdm.web.audit.wording import count, moment, text

TONES: Mapping[str, str] = {
    "ok": "ok",
    "ready": "live",
    "leased": "live",
    "pending": "live",
    "cleaned": "ok",
    "expired": "warn",
    "retired": "ok",
    "rejected": "bad",
    "rolled_back": "bad",
    "failed": "bad",
    "forbidden": "bad",
    "error": "bad",
    "passed": "ok",
}
"""The colour of a status; others are plain."""

_ALIVE = ("ready", "leased")


def status(facts: Facts) -> tuple[str, str]:
    """The status of the run or the request, and its tone."""
    found = str(facts.run["status"] if facts.run else facts.request["status"])
    if _expected(facts):
        return "rejected as expected", "ok"
    return found.replace("_", " "), TONES.get(found, "plain")


def answers(facts: Facts, checks: Sequence[Row], words: int) -> list[dict[str, str]]:
    """Five rows of question, answer, detail and tone."""
    return [
        {"question": question, "answer": answer, "more": text(more, words), "tone": tone}
        for question, (answer, more, tone) in (
            ("Who asked?", _who(facts, words)),
            ("What was made?", _made(facts)),
            ("Was it valid?", _valid(facts, checks)),
            ("Is it gone?", _gone(facts)),
            ("Is the trail sealed?", _sealed(facts)),
        )
    ]


Answer = tuple[str, str, str]


def _expected(facts: Facts) -> bool:
    error = facts.request["error"] or {}
    return bool((error.get("details") or {}).get("expected")) and (
        facts.request["status"] == "rejected"
    )


def _who(facts: Facts, words: int) -> Answer:
    request = facts.request
    more = f"through {request['source']}, {moment(request['created_at'])}"
    return text(request["invoker"], words), more, "plain"


def _made(facts: Facts) -> Answer:
    request = facts.request
    state = request["status"]
    problem = (request["error"] or {}).get("message")
    if state == "pending":
        return "Nothing yet", "the request is under way, or its process has died", "live"
    if state == "rejected":
        tone = "ok" if _expected(facts) else "bad"
        return "Nothing", str(problem or "the checks refused it"), tone
    if state == "rolled_back":
        return "Nothing", str(problem or "it was rolled back"), "bad"
    rows = sum(table["rows"] for table in request["tables"].values())
    tables = count(len(request["tables"]), "table")
    runs = count(request["runs"], "test run")
    if facts.run is not None and request["runs"] > 1:
        return "One test run", f"of a request of {runs}, {rows:,} rows in {tables}", "plain"
    return count(rows, "row"), f"in {tables}, for {runs}", "plain"


def _valid(facts: Facts, checks: Sequence[Row]) -> Answer:
    if not checks:
        error = facts.request["status"] in ("rolled_back", "pending")
        said = "it ended before the checks" if error else "no verdict is recorded"
        return "Not known", said, "warn" if not error else "plain"
    broken = [check for check in checks if check["broken"]]
    judged = [check["judged"] for check in checks if isinstance(check["judged"], int)]
    looked = f"{count(sum(judged), 'row')} judged" if judged else "counts are in Dagster"
    if broken and all(check["expected"] for check in broken):
        names = count(len(broken), "rule")
        return "Broken on purpose", f"it breaks {names}, as the scenario declares; {looked}", "ok"
    if broken:
        return f"{len(broken)} of {count(len(checks), 'check')} failed", looked, "bad"
    vacuous = sum(check["vacuous"] for check in checks)
    idle = f", {vacuous} had nothing to judge" if vacuous else ""
    return f"{count(len(checks), 'check')} passed", looked + idle, "ok"


def _there(facts: Facts) -> tuple[int, bool]:
    """The number of rows in the target now, and whether all tables could be counted."""
    counted = [table["rows"] for table in facts.in_target.values()]
    return sum(rows or 0 for rows in counted), bool(counted) and None not in counted


def _gone(facts: Facts) -> Answer:
    there, counted = _there(facts)
    now = f"{count(there, 'row')} in the target now" if counted else "its rows were not counted"
    if facts.request["status"] in ("rejected", "rolled_back", "pending"):
        tone = "bad" if there else "ok"
        return ("Rows are left" if there else "Nothing was loaded"), now, tone
    if facts.run is not None:
        return _run_gone(facts, facts.run, there, now)
    total = sum(facts.run_counts.values())
    alive = sum(facts.run_counts.get(name, 0) for name in _ALIVE)
    if alive:
        leased = facts.run_counts.get("leased", 0)
        held = f"{leased:,} leased, {alive - leased:,} ready; {now}"
        said = "No" if alive == total else f"{total - alive:,} of {count(total, 'run')}"
        return said, held, "live"
    return _said_gone(there, f"all of {count(total, 'test run')}; {now}" if total else now)


def _run_gone(facts: Facts, run: Row, there: int, now: str) -> Answer:
    if run["status"] == "leased":
        late = run["expires_at"] is not None and run["expires_at"] < facts.read_at
        until = f"until {moment(run['expires_at'])}" + (", which is past" if late else "")
        more = f"leased by {text(run['owner'], 60)} {until}; {now}"
        return "Not yet", more, "warn" if late else "live"
    if run["status"] == "ready":
        return "No", f"ready, waiting to be leased; {now}", "live"
    how = "its time was up" if run["status"] == "expired" else "reset"
    return _said_gone(there, f"{how}, {moment(run['ended_at'])}; {now}")


def _said_gone(there: int, more: str) -> Answer:
    return ("Rows are left", more, "bad") if there else ("Yes", more, "ok")


def _sealed(facts: Facts) -> Answer:
    seal: Mapping[str, Any] = facts.seal
    verified = seal["verified"]
    if verified is not None and verified["broken"] is not None:
        return "BROKEN", f"the chain does not hold at seal {verified['broken']:,}", "bad"
    if not seal["sealed"]:
        return "Not yet", f"{count(seal['events'], 'event')} waiting", "warn"
    holds = f"up to seal {seal['last_seal']:,}, and the chain holds"
    if seal["sealed"] < seal["events"]:
        return f"{seal['sealed']:,} of {count(seal['events'], 'event')}", holds, "warn"
    return "Yes", f"{count(seal['events'], 'event')}, {holds}", "ok"
