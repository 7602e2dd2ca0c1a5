"""The pytest plugin: a test says which data it needs, gets it, and it is gone afterwards.

Belongs here: the marker, the fixtures and what a failing test's report says about its data. Does
not belong here: leasing and making (``atdm.client``). Loaded by every pytest of the environment, so
nothing is imported or connected before a test asks for data.

::

    @atdm_scenario("claim_denial_active_member", {"denial_reason": "not_covered"})
    def test_denial_is_shown(atdm_data):
        assert page(atdm_data["data"]["member_id"]).shows("denied")
"""

from __future__ import annotations

import warnings
from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from atdm.client import AtdmClient

MARKER = "atdm_scenario"
_DATA = pytest.StashKey[dict[str, Any]]()
_UNREACHABLE = pytest.StashKey[str]()
_MARKER_HELP = (
    "atdm_scenario(name, constraints=None, *, seed=None, as_of=None, ttl=None, "
    "cleanup='after_test'): the scenario whose data the fixture atdm_data gets for this test; "
    "cleanup: after_test, after_suite (when the session ends) or leave (when the lease ends)."
)
CLEANUPS = ("after_test", "after_suite", "leave")


class AtdmResetWarning(pytest.PytestWarning):
    """A run's rows could not be deleted after its test; names the run."""


class AtdmSealWarning(pytest.PytestWarning):
    """The audit trail could not be sealed and exported when the session ended."""


def atdm_scenario(
    name: str,
    constraints: Mapping[str, object] | None = None,
    *,
    seed: int | None = None,
    as_of: str | None = None,
    ttl: str | None = None,
    cleanup: str | None = None,
) -> pytest.MarkDecorator:
    """Say which scenario a test needs (requirement A-PYT-01); the same as the marker.

    ``cleanup`` says when its rows go (requirement A-OPS-16): ``after_test`` (the default),
    ``after_suite`` when the session ends, ``leave`` when the lease ends. ``seed`` and ``as_of``
    (ISO 8601) pin the data, so it is made for this test alone and never taken from a pool. ``ttl``
    is how long the lease holds (``30m``, ``4h``).
    """
    given = {"seed": seed, "as_of": as_of, "ttl": ttl, "cleanup": cleanup}
    pinned = {key: value for key, value in given.items() if value is not None}
    mark: pytest.MarkDecorator = getattr(pytest.mark, MARKER)
    return mark(name, constraints, **pinned)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("atdm").addoption(
        "--atdm-seal",
        action="store_true",
        help="Seal and export the audit trail when the session ends, as the daemon does.",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", _MARKER_HELP)


@pytest.fixture(scope="session")
def atdm_client() -> Generator[AtdmClient, None, None]:
    """The client that ``atdm_data`` asks; override it to ask another target or a fake.

    It connects at its first call.
    """
    from atdm.client import AtdmClient

    with AtdmClient(source="pytest") as client:
        yield client


@pytest.fixture(scope="session")
def _atdm_suite(
    request: pytest.FixtureRequest, atdm_client: AtdmClient
) -> Generator[list[dict[str, Any]], None, None]:
    """The runs that are given back when the session ends; then the trail is sealed, if asked."""
    kept: list[dict[str, Any]] = []
    yield kept
    for data in kept:
        _give_back(atdm_client, data)
    if request.config.getoption("--atdm-seal"):
        try:
            atdm_client.seal_audit()
        except Exception as error:
            warnings.warn(AtdmSealWarning(f"the trail is not exported: {error}"), stacklevel=1)


@pytest.fixture
def atdm_data(
    request: pytest.FixtureRequest, atdm_client: AtdmClient, _atdm_suite: list[dict[str, Any]]
) -> Generator[dict[str, Any], None, None]:
    """The data of the test's scenario, in the shape of ``atdm -o json request``.

    Leased (or made) before the test, deleted by its token after it, also when the test fails
    (unless the marker's ``cleanup`` says otherwise). A failed reset is an AtdmResetWarning that
    names the run. Raises UsageError without the marker.
    """
    from atdm.client import AtdmClientError

    marker = request.node.get_closest_marker(MARKER)
    if marker is None:
        raise pytest.UsageError(
            f"{request.node.nodeid} uses atdm_data: mark it with @pytest.mark.{MARKER}(NAME)"
        )
    wanted = _wanted(request.node.nodeid, marker)
    cleanup = wanted.pop("cleanup")
    known = request.config.stash.get(_UNREACHABLE, None)
    if known is not None:
        pytest.fail(known, pytrace=False)
    try:
        data = atdm_client.request_scenario(**wanted, reason=request.node.nodeid)
    except AtdmClientError as error:
        hint = error.details.get("hint")
        message = f"atdm {error.code}: {error.message}" + (f"\n{hint}" if hint else "")
        if error.code == "TARGET_UNREACHABLE":
            # The next test would wait for the same time-out; it fails at once instead.
            request.config.stash[_UNREACHABLE] = message
        pytest.fail(message, pytrace=False)
    if data["status"] != "ready":
        pytest.fail(
            f"atdm: scenario {wanted['scenario']} is made to be {data['status']}: there is no data",
            pytrace=False,
        )
    request.node.stash[_DATA] = data
    if cleanup == "after_suite":
        _atdm_suite.append(data)
    try:
        yield data
    finally:
        if cleanup == "after_test":
            _give_back(atdm_client, data)


def _give_back(client: AtdmClient, data: Mapping[str, Any]) -> None:
    try:
        client.reset_run(data["test_run_id"], data["cleanup"]["cleanup_token"])
    except Exception as error:
        code = getattr(error, "code", type(error).__name__)
        warnings.warn(
            AtdmResetWarning(
                f"the rows of test run {data['test_run_id']} ({data['scenario_id']}) "
                f"were not deleted: {code}: {error}"
            ),
            stacklevel=1,
        )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    data = item.stash.get(_DATA, None)
    if data is not None and report.failed:
        report.sections.append(("atdm", _how_to_repeat(item, data)))
    return report


def _wanted(nodeid: str, marker: pytest.Mark) -> dict[str, Any]:
    """The marker's arguments by name; UsageError when they are not what it takes."""
    try:
        mark = _arguments(*marker.args, **marker.kwargs)
    except TypeError as error:
        raise pytest.UsageError(f"{nodeid}: {error}; write {_MARKER_HELP}") from error
    if not isinstance(mark["scenario"], str) or not isinstance(mark["constraints"], Mapping | None):
        raise pytest.UsageError(f"{nodeid}: write {_MARKER_HELP}")
    if mark["cleanup"] not in CLEANUPS:
        raise pytest.UsageError(
            f"{nodeid}: cleanup is {mark['cleanup']!r}; allowed: {', '.join(CLEANUPS)}"
        )
    return mark


def _arguments(
    name: str,
    constraints: Mapping[str, object] | None = None,
    *,
    seed: int | None = None,
    as_of: str | None = None,
    ttl: str | None = None,
    cleanup: str = "after_test",
) -> dict[str, Any]:
    return {
        "scenario": name, "constraints": constraints, "seed": seed, "as_of": as_of, "ttl": ttl,
        "cleanup": cleanup,
    }  # fmt: skip


def _how_to_repeat(item: pytest.Item, data: Mapping[str, Any]) -> str:
    """Which data the test had, and the command that makes the same again."""
    import shlex

    from atdm_engine.run_ids import run_number

    marker = item.get_closest_marker(MARKER)
    constraints = (_wanted(item.nodeid, marker)["constraints"] if marker else None) or {}
    number = run_number(data["test_run_id"])
    words = ["atdm", "request", f"{data['domain']}/{data['scenario_id']}"]
    for key, value in constraints.items():
        words += ["-c", f"{key}={value}"]
    words += ["--seed", str(data["seed"]), "--as-of", str(data["as_of"])]
    if number > 1:
        words += ["--runs", str(number)]
    which = "" if number <= 1 else f" (run {number} of them)"
    return (
        f"scenario {data['scenario_id']}, test run {data['test_run_id']}\n"
        f"the same data again: {shlex.join(words)}{which}"
    )
