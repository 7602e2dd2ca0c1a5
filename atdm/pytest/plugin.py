"""The pytest plugin: hooks and fixtures.

Every pytest of the environment loads it, so it imports and connects nothing before a test needs
data.

::

    @atdm_scenario("claim_denial_active_member", {"denial_reason": "not_covered"})
    def test_denial_is_shown(atdm_data):
        assert page(atdm_data["data"]["member_id"]).shows("denied")
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from atdm.pytest import report as reporting
from atdm.pytest.data import AtdmData
from atdm.pytest.marker import CLEANUPS, MARKER_HELP, Wanted, atdm_scenario, wanted_by
from atdm.pytest.scopes import Leases, fixture_name, needs_of
from atdm.pytest.suite import ActiveLease, AtdmResetWarning, Place, Suite
from atdm_engine.errors import AtdmError, ErrorCode

if TYPE_CHECKING:
    from atdm.client.sync import AtdmClient

__all__ = [
    "CLEANUPS",
    "AtdmData",
    "AtdmResetWarning",
    "atdm_scenario",
]

_SUITE = pytest.StashKey[Suite]()
_HELD = pytest.StashKey[list[ActiveLease]]()
_STOPPED = pytest.StashKey[str]()
_SESSION_ID = pytest.StashKey[str]()
_WORKERS = pytest.StashKey[list[dict[str, Any]]]()
_TARGET_URL = pytest.StashKey[str | None]()
_OF_THE_TARGET = frozenset(
    {
        ErrorCode.TARGET_UNREACHABLE,
        ErrorCode.TARGET_NOT_INITIALISED,
        ErrorCode.TARGET_NOT_DISPOSABLE,
        ErrorCode.MISSING_EXTRA,
        ErrorCode.LLM_MODE_NOT_ENABLED,
    }
)
"""Errors that every test would meet: the session ends with the first of them."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("atdm")
    group.addoption(
        "--atdm-seal",
        action="store_true",
        help="Seal and export the audit trail at the end of the session, as the daemon does.",
    )
    group.addoption(
        "--atdm-keep-failed",
        action="store_true",
        help="Keep the data of failed tests until its lease ends, and print how to look at it and "
        "how to reset it.",
    )
    parser.addini(
        "atdm_queue_seconds",
        "Seconds that a session waits for the queue to make missing runs, where it cannot make "
        "them itself.",
        default="120",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", MARKER_HELP)
    if hasattr(config, "workerinput"):
        config.stash[_SESSION_ID] = config.workerinput["atdm_session"]
    else:
        moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        config.stash[_SESSION_ID] = f"{moment}-{secrets.token_hex(4)}"
        config.stash[_WORKERS] = []


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Pass session id and distribution mode to a worker of pytest-xdist."""
    node.workerinput["atdm_session"] = node.config.stash[_SESSION_ID]
    node.workerinput["atdm_dist"] = node.config.getoption("dist")


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Collect the results of a worker. Crashed workers report none."""
    results = getattr(node, "workeroutput", {}).pop("atdm", None)
    if results is not None:
        node.config.stash[_WORKERS].append(results)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Count the leases that the tests need, and have missing runs made before the first test."""
    config = session.config
    if config.option.collectonly or config.getoption("setupplan", False) or not session.items:
        return
    given = getattr(config, "workerinput", {})
    needs = needs_of(
        session.items, workers=given.get("workercount", 1), dist=given.get("atdm_dist", "no")
    )
    if not needs:
        return
    suite = _suite_of(config)
    suite.plan(needs)
    if _asks_later(session):
        return
    from atdm.client.sync import AtdmClient

    try:
        suite.open(AtdmClient(source="pytest"))
        suite.prepare()
    except AtdmError as error:
        if not hasattr(config, "workerinput"):
            raise session.Failed(_stop(session, error)) from error
        _stop(session, error)


def _asks_later(session: pytest.Session) -> bool:
    """Whether the first lease opens the target: a suite has its own client or restores first."""
    if any("atdm_baseline" in getattr(item, "fixturenames", ()) for item in session.items):
        return True
    manager = getattr(session, "_fixturemanager", None)
    if manager is None:
        return True
    for item in session.items:
        found = manager.getfixturedefs("atdm_client", item) or ()
        if found and found[-1].func.__module__ != __name__:
            return True
    return False


def _stop(session: pytest.Session, error: AtdmError) -> str:
    """End the session with one message; returns the message."""
    from atdm.pytest.client import in_one_line

    message = f"atdm {in_one_line(error)}"
    session.config.stash[_STOPPED] = message
    session.shouldfail = message
    return message


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> bool | None:
    """Skip the tests that a worker still has when the session ends early."""
    return True if _STOPPED in item.config.stash and hasattr(item.config, "workerinput") else None


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test that runs again starts without the properties of its first run."""
    if item.stash.get(_HELD, None) is not None:
        item.user_properties[:] = [
            one for one in item.user_properties if not str(one[0]).startswith("atdm_")
        ]
    item.stash[_HELD] = []


@pytest.fixture(scope="session")
def atdm_client() -> Generator[AtdmClient, None, None]:
    """The client of the session's target. Override it to lease from another target or a fake.

    It connects at its first call.
    """
    from atdm.client.sync import AtdmClient

    with AtdmClient(source="pytest") as client:
        yield client


@pytest.fixture(scope="session")
def _atdm_suite(
    request: pytest.FixtureRequest, atdm_client: AtdmClient
) -> Generator[Suite, None, None]:
    """The session's leases. Those with cleanup="after_suite" are reset at its end."""
    suite = _suite_of(request.config)
    with _refusing(request.session):
        suite.open(atdm_client)
    yield suite
    for held in suite.at_the_end:
        suite.release(held)


def _leases_fixture(scope: Any) -> Any:
    """A fixture that holds the leases of ``scope`` and resets them at its end."""

    @pytest.fixture(scope=scope, name=fixture_name(scope))
    def leases(_atdm_suite: Suite) -> Iterator[Leases]:
        with Leases(_atdm_suite) as held:
            yield held

    return leases


_atdm_leases_of_function = _leases_fixture("function")
_atdm_leases_of_class = _leases_fixture("class")
_atdm_leases_of_module = _leases_fixture("module")
_atdm_leases_of_session = _leases_fixture("session")


@pytest.fixture
def atdm_data(request: pytest.FixtureRequest, _atdm_suite: Suite) -> AtdmData:
    """The data of the test's scenario, in the shape of ``atdm -o json request``.

    Leased (or made) before the test and reset after it, also when the test fails or is interrupted,
    unless the marker or --atdm-keep-failed says otherwise. A failed reset is an AtdmResetWarning
    that names the run. Raises UsageError without the marker.
    """
    wanted = wanted_by(request.node)
    scope = {"test": "function"}.get(wanted.per, wanted.per)
    if scope == "class" and request.cls is None:
        scope = "function"
    return _leased(request, scope, wanted)


@pytest.fixture
def atdm_lease(request: pytest.FixtureRequest, _atdm_suite: Suite) -> Callable[..., AtdmData]:
    """Lease by a call: ``atdm_lease(scenario, **constraints)``, once for each actor of a test.

    Reset after the test, as the data of ``atdm_data`` is.
    """

    def lease(scenario: str, /, **constraints: Any) -> AtdmData:
        return _leased(request, "function", Wanted(scenario, constraints), again=True)

    return lease


def _leased(
    request: pytest.FixtureRequest, scope: str, wanted: Wanted, *, again: bool = False
) -> AtdmData:
    leases: Leases = request.getfixturevalue(fixture_name(scope))
    item = request.node
    with _refusing(request.session):
        held = leases.lease(wanted, item.nodeid, again=again)
    item.stash[_HELD].append(held)
    item.user_properties += reporting.properties(held)
    return held.data


@contextmanager
def _refusing(session: pytest.Session) -> Iterator[None]:
    """Fail the test; end the session where every other test would fail with the same error."""
    from atdm.pytest.client import in_one_line

    try:
        yield
    except AtdmError as error:
        if error.code in _OF_THE_TARGET:
            message = _stop(session, error)
        else:
            message = f"atdm {error.message if error.details.get('told') else in_one_line(error)}"
        raise pytest.fail.Exception(message, pytrace=False) from None


@pytest.fixture(scope="session")
def atdm_baseline(_atdm_suite: Suite, atdm_client: AtdmClient) -> Callable[..., dict[str, Any]]:
    """Restore a baseline: ``atdm_baseline(id, domain=None)``, once a session.

    Under pytest-xdist one worker restores and the others wait. Use it in a session fixture, before
    the first lease: a restore waits for active leases, and it removes the runs that were ready.
    """

    def restore(baseline: str, domain: str | None = None) -> dict[str, Any]:
        return _atdm_suite.restore(
            f"{domain or ''}/{baseline}",
            lambda: atdm_client.baseline_restore(baseline, domain=domain),
        )

    return restore


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    held = item.stash.get(_HELD, [])
    if not held:
        return report
    if report.failed:
        for one in held:
            one.failed_in = item.nodeid
        texts = dict.fromkeys(reporting.how_to_repeat(one) for one in held)
        report.sections.append((reporting.SECTION, "\n\n".join(texts)))
    _suite_of(item.config).note_outcome(report, held)
    return report


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None, Any, Any]:
    """After the last fixture: reset the leases of this process, then those of crashed workers."""
    result = yield
    config = session.config
    suite = config.stash.get(_SUITE, None)
    if suite is not None:
        suite.finish()
    if hasattr(config, "workerinput"):
        if suite is not None:
            output: dict[str, Any] = config.workeroutput  # type: ignore[attr-defined]
            output["atdm"] = {
                "seconds": suite.seconds, "kept": suite.kept, "problems": suite.problems,
            }  # fmt: skip
        return result
    results = config.stash[_WORKERS]
    if suite is not None:
        results.append({"seconds": suite.seconds, "kept": suite.kept, "problems": suite.problems})
    if suite is not None or config.pluginmanager.hasplugin("dsession"):
        from atdm.pytest.session_end import end_session

        ended = end_session(config.stash[_SESSION_ID], suite.settings if suite else None)
        results.append({"seconds": [], "kept": ended.kept, "problems": ended.problems})
        config.stash[_TARGET_URL] = ended.url
    if config.getoption("--atdm-seal"):
        results.append({"seconds": [], "kept": [], "problems": _seal(session)})
    return result


def _seal(session: pytest.Session) -> list[str]:
    from atdm.pytest.session_end import seal

    try:
        seal()
    except Exception as error:
        return [f"the audit trail is not exported: {error}"]
    return []


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the number of leases, failed resets, and kept data."""
    results = config.stash.get(_WORKERS, [])
    seconds = [one for part in results for one in part["seconds"]]
    kept = [one for part in results for one in part["kept"]]
    if kept:
        terminalreporter.section("atdm: kept data of failed tests", bold=True)
        for line in reporting.kept_lines(kept, config.stash.get(_TARGET_URL, None)):
            terminalreporter.write_line(line)
    for problem in dict.fromkeys(one for part in results for one in part["problems"]):
        terminalreporter.write_line(f"atdm: {problem}", yellow=True)
    if seconds and config.get_verbosity() >= 0:
        terminalreporter.write_line(reporting.summary_line(seconds))


def _suite_of(config: pytest.Config) -> Suite:
    suite = config.stash.get(_SUITE, None)
    if suite is None:
        given = getattr(config, "workerinput", {})
        place = Place(
            session_id=config.stash[_SESSION_ID],
            worker=given.get("workerid", "main"),
            workers=given.get("workercount", 1),
            keep_failed=config.getoption("--atdm-keep-failed"),
            queue_seconds=float(config.getini("atdm_queue_seconds")),
        )
        suite = config.stash[_SUITE] = Suite(place, reporting.teller(config))
    return suite
