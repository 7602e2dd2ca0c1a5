"""``atdm status``."""

from __future__ import annotations

from typing import Any

from atdm.cli.output import Output, table
from atdm_resources.local.processes import AUDIT, DAEMON, WEBSERVER
from atdm_resources.settings import Settings

Line = tuple[str, str, str]
"""Part, state, detail."""


def status(output: Output) -> int:
    """Show what runs, what is ready, and what is wrong (then exit status 1).

    Example: atdm -o json status
    """
    from atdm_services.health.report import report

    found = report(Settings.from_environment())
    output.emit(found, lambda: status_parts(found))
    return 0 if found["ok"] else 1


def status_parts(report: dict[str, Any]) -> list[Any]:
    """A table with a line for every part; then the problems."""
    from atdm_services.health.report import age

    database, store = report["database"], report["store"]
    reachable = "reachable" if database["reachable"] else "not reachable"
    lines: list[Line] = [
        ("database", reachable, database.get("url", "embedded")),
        ("catalog", *_catalog_state(database)),
        ("store", _store_state(store), store["url"]),
        (WEBSERVER, _process_state(report[WEBSERVER]), report[WEBSERVER].get("url", "")),
        (DAEMON, _process_state(report[DAEMON]), _heartbeats(report[DAEMON])),
        (AUDIT, _process_state(report[AUDIT]), report[AUDIT].get("url", "")),
        *_instigator_lines(report[DAEMON]),
        *_work_lines(database.get("work")),
        *_pool_lines(database),
    ]
    for item in database.get("baselines", []):
        what = f"{item['domain']}/{item['baseline_id']}"
        lines.append(("baseline", f"{age(item['age'])} old", f"{what}, {item['kind']}"))
    clones = database.get("clones")
    if clones:
        lines.append(("clones", ", ".join(f"{n} {status}" for status, n in clones.items()), ""))
    parts: list[Any] = [table(None, ("part", "state", "detail"), lines)]
    parts += [f"problem: {problem}" for problem in report["problems"]] or ["all well"]
    return parts


def _store_state(store: dict[str, Any]) -> str:
    if store.get("usable") is None:
        return str(store.get("note", "no answer")).partition(":")[0]
    return "usable" if store["usable"] else "not usable"


def _catalog_state(database: dict[str, Any]) -> tuple[str, str]:
    if not database["reachable"]:
        return "-", ""
    if "revision" not in database:
        hidden = "summary" in database.get("unreadable", [])
        return ("not readable", "this role may lease and give back") if hidden else ("missing", "")
    detail = f"{len(database.get('scenarios', []))} scenarios"
    if database.get("unreadable"):
        detail += f"; this role may not read {', '.join(database['unreadable'])}"
    return f"revision {database['revision']}", f"{detail}; {database['version']}"


def _process_state(process: dict[str, Any]) -> str:
    from atdm_services.health.report import alive

    if process["running"]:
        return f"running, pid {process['pid']}"
    return "running elsewhere" if alive(process) else "not running"


def _heartbeats(daemon: dict[str, Any]) -> str:
    from atdm_services.health.report import age

    beats = daemon.get("heartbeats")
    if not beats:
        return "no sign of life yet" if daemon["running"] else ""
    return f"last sign of life {age(min(beats.values()))} ago"


def _instigator_lines(daemon: dict[str, Any]) -> list[Line]:
    """A line for each sensor and schedule with a problem; the others share a line for each kind."""
    from atdm_services.health.report import age

    lines, well = [], []
    for item in daemon.get("instigators", []):
        ticked = f"last tick {item['tick'] or '-'}"
        if item["tick_age"] is not None:
            ticked += f" {age(item['tick_age'])} ago"
        if item["status"] == "running" and item["tick"] != "failure":
            well.append(item)
            continue
        detail = f"{ticked}; {item['error']}" if item["error"] else ticked
        lines.append((f"{item['kind']} {item['name']}", item["status"], detail))
    for kind in ("sensor", "schedule"):
        ages = {item["name"]: item["tick_age"] for item in well if item["kind"] == kind}
        if ages:
            named = ", ".join(
                f"{name} {'not yet' if seconds is None else age(seconds)}"
                for name, seconds in ages.items()
            )
            lines.append((f"{kind}s", f"{len(ages)} running", f"last ticks: {named}"))
    return sorted(lines, key=lambda line: line[0])


def _work_lines(work: dict[str, Any] | None) -> list[Line]:
    from atdm_services.health.report import age, counted

    if work is None:
        return []

    def with_age(count: int, seconds: float | None, what: str) -> str:
        return f"{what} {age(seconds)}" if count else ""

    late = f"; {work['overdue']} past their time" if work["overdue"] else ""
    dead = f"{work['dead']} whose process is gone" if work["dead"] else ""
    return [
        (
            "leases",
            f"{work['leased']} leased",
            with_age(work["leased"], work["oldest_lease"], "the oldest for") + late,
        ),
        (
            "queue",
            f"{work['waiting']} waiting, {work['launched']} being made",
            with_age(work["waiting"], work["oldest_waiting"], "the oldest for"),
        ),
        ("requests", f"{work['pending']} pending", dead),
        (
            "audit trail",
            f"{counted(work['unsealed'])} unsealed",
            with_age(work["unsealed"], work["oldest_unsealed"], "the oldest for"),
        ),
    ]


def _pool_lines(database: dict[str, Any]) -> list[Line]:
    """Pools, and the other scenarios that have runs."""
    lines = []
    pools = {(pool["domain"], pool["scenario_id"]): pool for pool in database.get("pools", [])}
    counts = {(row["domain"], row["scenario_id"]): row for row in database.get("scenarios", [])}
    for key, pool in pools.items():
        state = f"{pool['ready']} of {pool['size']} ready"
        notes = ["being filled"] if pool["filling"] else ["below half"] if pool["low"] else []
        if pool["failures"]:
            notes.append(f"{pool['failures']} attempts failed")
        if key in counts and counts[key]["leased"]:
            notes.append(f"{counts[key]['leased']} leased")
        lines.append((f"pool {'/'.join(key)}", state, ", ".join(notes)))
    for key, row in counts.items():
        if key not in pools and (row["ready"] or row["leased"]):
            lines.append(
                ("runs of " + "/".join(key), f"{row['ready']} ready", f"{row['leased']} leased")
            )
    return lines
