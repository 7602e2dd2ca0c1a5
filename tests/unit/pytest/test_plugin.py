"""The pytest plugin against a client that only pretends (``atdm_client`` is overridable)."""

from __future__ import annotations

import pytest

from atdm.pytest.scopes import needs_of

pytest_plugins = ["pytester"]

FAKE = """
import pytest
from atdm.client import AtdmClientError
from atdm_services.leases.answer import leased
from atdm_engine.errors import ErrorCode

CALLS = []

class FakeClient:
    unreachable = False
    reset_fails = False
    status = "ready"

    def request_scenario(self, scenario, constraints=None, **options):
        CALLS.append(("request", scenario, constraints, options))
        if self.unreachable:
            raise AtdmClientError(ErrorCode.TARGET_UNREACHABLE, "no server at db:5432")
        number = len(CALLS)
        response = leased({
            "request_id": "01K7ZQ0000ABCDEFGHJK000000",
            "test_run_id": "01K7ZQ0000ABCDEFGHJK00000%d" % number,
            "scenario_id": scenario, "domain": "d", "token": "atdm_hush",
            "data": {"member_id": "m-1"}, "expires_at": None, "seed": 42,
            "as_of": "2026-01-01T00:00:00+00:00",
        })
        return {**response, "status": self.status}

    def baseline_restore(self, baseline, domain=None):
        CALLS.append(("restore", baseline, domain))
        return {"baseline_id": baseline}

    def reset_run(self, run, token):
        assert token == "atdm_hush"
        CALLS.append(("reset", run))
        if self.reset_fails:
            raise AtdmClientError(ErrorCode.BUSY, "being restored")
        return {"status": "cleaned"}

CLIENT = FakeClient()

@pytest.fixture(scope="session")
def atdm_client():
    yield CLIENT
    print("CALLS", [call[:2] for call in CALLS])
"""


@pytest.fixture
def suite(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makeconftest(FAKE)
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    return pytester


def test_the_marker_is_known_under_strict_markers(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("import pytest\n@pytest.mark.atdm_scenario('s')\ndef test_one(): pass\n")
    pytester.runpytest_inprocess("--strict-markers").assert_outcomes(passed=1)
    pytester.runpytest_inprocess("--markers").stdout.fnmatch_lines(["*atdm_scenario(name,*"])


def test_data_is_leased_before_and_reset_after(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        import pytest
        from conftest import CALLS
        from atdm.pytest import atdm_scenario

        @pytest.mark.atdm_scenario("s", {"a": 1})
        def test_marker(atdm_data):
            assert atdm_data["data"]["member_id"] == "m-1"
            assert CALLS == [("request", "s", {"a": 1}, CALLS[0][3])]
            assert CALLS[0][3]["reason"].endswith("test_marker")
            assert CALLS[0][3]["seed"] is None

        @atdm_scenario("t", seed=7, as_of="2026-01-01", ttl="5m")
        def test_decorator(atdm_data):
            assert CALLS[-2][0] == "reset"
            options = CALLS[-1][3]
            assert (options["seed"], options["as_of"], options["ttl"]) == (7, "2026-01-01", "5m")

        def test_everything_was_given_back():
            assert [call[0] for call in CALLS] == ["request", "reset", "request", "reset"]
        """
    )
    suite.runpytest_inprocess("-p", "no:randomly").assert_outcomes(passed=3)


def test_the_nearest_marker_counts(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        from atdm.pytest import atdm_scenario

        @atdm_scenario("of_the_class")
        class TestGroup:
            def test_one(self, atdm_data):
                assert atdm_data["scenario_id"] == "of_the_class"

            @atdm_scenario("own")
            def test_two(self, atdm_data):
                assert atdm_data["scenario_id"] == "own"
        """
    )
    suite.runpytest_inprocess().assert_outcomes(passed=2)


def test_reset_happens_also_when_the_test_fails_and_the_report_says_how_to_repeat(
    suite: pytest.Pytester,
) -> None:
    suite.makepyfile(
        """
        from conftest import CALLS
        from atdm.pytest import atdm_scenario

        @atdm_scenario("s", {"reason": "a b"})
        def test_fails(atdm_data):
            token = atdm_data["cleanup"]["cleanup_token"]
            assert atdm_data == {}

        def test_reset_was_called():
            assert [call[0] for call in CALLS] == ["request", "reset"]
        """
    )
    result = suite.runpytest_inprocess("--showlocals", "-vv")
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(
        [
            "*scenario s, test run 01K7ZQ0000ABCDEFGHJK000001*",
            "constraints: reason=a b",
            "seed 42, as of 2026-01-01T00:00:00+00:00",
            "*atdm replay 01K7ZQ0000ABCDEFGHJK000001",
        ]
    )
    assert "atdm_hush" not in result.stdout.str() + result.stderr.str()


def test_without_the_marker_it_is_a_usage_error(suite: pytest.Pytester) -> None:
    suite.makepyfile("def test_one(atdm_data): pass")
    result = suite.runpytest_inprocess()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*UsageError*test_one uses atdm_data: mark it with*"])


@pytest.mark.parametrize("arguments", ["", "1", "'s', 'text'", "'s', colour='red'"])
def test_wrong_marker_arguments_are_a_usage_error(suite: pytest.Pytester, arguments: str) -> None:
    suite.makepyfile(
        f"import pytest\n@pytest.mark.atdm_scenario({arguments})\ndef test_one(atdm_data): pass"
    )
    result = suite.runpytest_inprocess()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*UsageError*write atdm_scenario(name,*"])


def test_an_unreachable_target_ends_the_session_with_one_message(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        import pytest
        from conftest import CALLS, CLIENT
        CLIENT.unreachable = True
        pytestmark = pytest.mark.atdm_scenario("s")

        def test_one(atdm_data): pass
        def test_two(atdm_data): pass
        """
    )
    result = suite.runpytest_inprocess()
    result.assert_outcomes(errors=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["! atdm TARGET_UNREACHABLE: no server at db:5432*"])
    assert "Traceback" not in result.stdout.str()
    assert "another exception" not in result.stdout.str()


def test_a_failed_reset_is_a_warning_that_names_the_run(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        from conftest import CLIENT
        from atdm.pytest import atdm_scenario
        CLIENT.reset_fails = True

        @atdm_scenario("s")
        def test_one(atdm_data): pass
        """
    )
    result = suite.runpytest_inprocess()
    result.assert_outcomes(passed=1, warnings=1)
    result.stdout.fnmatch_lines(["*AtdmResetWarning*01K7ZQ0000ABCDEFGHJK000001*BUSY*"])


def test_a_scenario_that_is_made_to_be_rejected_gives_no_data(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        from conftest import CLIENT
        from atdm.pytest import atdm_scenario
        CLIENT.status = "rejected"

        @atdm_scenario("s")
        def test_one(atdm_data): pass
        """
    )
    result = suite.runpytest_inprocess()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*scenario s is made to be rejected*"])


SCOPED = """
    import pytest
    from atdm.pytest import atdm_scenario
    SEEN = {}

    def see(name, data):
        SEEN.setdefault(name, []).append(data["test_run_id"])

    @atdm_scenario("c", per="class")
    class TestOne:
        def test_a(self, atdm_data): see("one", atdm_data)
        def test_b(self, atdm_data): see("one", atdm_data)
        @atdm_scenario("c", {"k": 1}, per="class")
        def test_other_constraints(self, atdm_data): see("other", atdm_data)
        @atdm_scenario("c")
        def test_own(self, atdm_data): see("own", atdm_data)

    @atdm_scenario("c", per="class")
    class TestTwo:
        def test_a(self, atdm_data): see("two", atdm_data)

    @pytest.mark.parametrize("n", range(2))
    @atdm_scenario("m", per="module")
    def test_module(atdm_data, n): see("module", atdm_data)

    @pytest.mark.parametrize("n", range(2))
    @atdm_scenario("s", per="session")
    def test_session(atdm_data, n): see("session", atdm_data)

    @pytest.mark.parametrize("n", range(2))
    @atdm_scenario("c", per="class")
    def test_outside_a_class(atdm_data, n): see(f"outside{n}", atdm_data)

    def test_who_shared_what():
        from conftest import CALLS
        runs = {name: set(seen) for name, seen in SEEN.items()}
        assert all(len(seen) == 1 for seen in runs.values())
        assert len(set.union(*runs.values())) == len(runs) == 8
        assert len(SEEN["one"]) == len(SEEN["module"]) == len(SEEN["session"]) == 2
        reset = [call[1] for call in CALLS if call[0] == "reset"]
        asked = [call[1] for call in CALLS if call[0] == "request"]
        assert len(asked) == 8
        # Those of the module and of the session are still out.
        assert set(reset) == set.union(*runs.values()) - runs["module"] - runs["session"]
"""


def test_a_lease_lasts_as_long_as_the_marker_says(suite: pytest.Pytester) -> None:
    suite.makepyfile(SCOPED)
    result = suite.runpytest_inprocess("-s")
    result.assert_outcomes(passed=12)
    calls = next(line for line in result.outlines if "CALLS" in line)
    assert calls.count("'reset'") == calls.count("'request'") == 8


def test_two_actors_in_one_test(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        from conftest import CALLS

        def test_two(atdm_lease):
            one, other = atdm_lease("s"), atdm_lease("s", colour="red", scenario=3)
            assert one["test_run_id"] != other.test_run_id
            assert other.data == {"member_id": "m-1"}
            assert CALLS[1][2] == {"colour": "red", "scenario": 3}
            assert [call[0] for call in CALLS] == ["request", "request"]

        def test_both_were_given_back():
            assert [call[0] for call in CALLS][2:] == ["reset", "reset"]
        """
    )
    suite.runpytest_inprocess().assert_outcomes(passed=2)


def test_a_baseline_is_restored_once_a_session(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        import pytest
        from conftest import CALLS
        from atdm.pytest import atdm_scenario

        @pytest.fixture(scope="session", autouse=True)
        def golden(atdm_baseline):
            return atdm_baseline("golden")

        @atdm_scenario("s")
        def test_one(atdm_data, golden):
            assert golden["baseline_id"] == "golden"
            assert [call[:2] for call in CALLS] == [("restore", "golden"), ("request", "s")]

        def test_two(atdm_baseline):
            atdm_baseline("golden")
            atdm_baseline("golden", domain="d")
            assert [call[1:] for call in CALLS if call[0] == "restore"] == [
                ("golden", None), ("golden", "d"),
            ]
        """
    )
    suite.runpytest_inprocess().assert_outcomes(passed=2)


RERUNS = """
from _pytest.runner import runtestprotocol

def pytest_runtest_protocol(item, nextitem):
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for turn in range(3):
        if turn:
            item._initrequest()
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
        if not any(report.failed for report in reports):
            break
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True
"""


@pytest.mark.parametrize("per", ["test", "class", "session"])
def test_a_test_that_runs_again_gets_fresh_data(suite: pytest.Pytester, per: str) -> None:
    suite.makeconftest(FAKE + RERUNS)
    suite.makepyfile(
        f"""
        from atdm.pytest import atdm_scenario
        SEEN = []

        @atdm_scenario("s", per={per!r})
        class TestOne:
            def test_one(self, atdm_data):
                SEEN.append(atdm_data["test_run_id"])
                assert len(SEEN) == 3

        def test_seen(request):
            assert len(set(SEEN)) == 3
        """
    )
    result = suite.runpytest_inprocess("--junitxml=report.xml")
    result.assert_outcomes(passed=2)
    report = (suite.path / "report.xml").read_text(encoding="utf-8")
    assert report.count('name="atdm_test_run_id"') == 1
    assert "atdm_hush" not in report


def test_a_coroutine_gets_its_data(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        import asyncio, pytest
        from conftest import CALLS

        @pytest.mark.asyncio
        @pytest.mark.atdm_scenario("s")
        async def test_one(atdm_data):
            await asyncio.sleep(0)
            assert atdm_data.scenario_id == "s"

        def test_reset():
            assert [call[0] for call in CALLS] == ["request", "reset"]
        """
    )
    suite.runpytest_inprocess("-o", "asyncio_mode=strict").assert_outcomes(passed=2)


@pytest.mark.parametrize("where", ["setup", "body"])
def test_ctrl_c_gives_back_what_is_out(suite: pytest.Pytester, where: str) -> None:
    suite.makepyfile(
        f"""
        import pytest
        from atdm.pytest import atdm_scenario

        @pytest.fixture
        def later(atdm_data):
            if {where!r} == "setup":
                raise KeyboardInterrupt

        @atdm_scenario("s", per="module")
        def test_one(atdm_data, later, atdm_lease):
            atdm_lease("other")
            raise KeyboardInterrupt
        """
    )
    result = suite.runpytest_inprocess("-s", no_reraise_ctrlc=True)
    assert result.ret == pytest.ExitCode.INTERRUPTED
    calls = next(line for line in result.outlines if "CALLS" in line)
    out = 1 if where == "setup" else 2
    assert calls.count("'reset'") == calls.count("'request'") == out


def test_what_the_tests_will_lease_is_counted_by_what_can_serve_them(
    pytester: pytest.Pytester,
) -> None:
    items = pytester.getitems(
        """
        import pytest
        from atdm.pytest import atdm_scenario

        @pytest.mark.parametrize("n", range(5))
        @atdm_scenario("a", {"k": 1})
        def test_plain(atdm_data, n): pass

        @atdm_scenario("a", {"k": 1}, per="class")
        class TestGroup:
            def test_a(self, atdm_data): pass
            def test_b(self, atdm_data): pass
            def test_c(self, atdm_data): pass

        @pytest.fixture
        def through(atdm_data): pass

        @atdm_scenario("b", seed=3)
        def test_pinned(through): pass

        @pytest.mark.skip
        @atdm_scenario("b")
        def test_skipped(atdm_data): pass

        @atdm_scenario("b")
        def test_marked_only(): pass

        @atdm_scenario("b", per="sometimes")
        def test_wrong(atdm_data): pass
        """
    )

    def counts(workers: int, dist: str) -> list[tuple[str, int | None, int]]:
        needs = needs_of(items, workers=workers, dist=dist)
        return [(need.wanted.scenario, need.wanted.seed, need.count) for need in needs]

    assert counts(1, "no") == [("a", None, 6), ("b", 3, 1)]
    # Any worker may get some of the class, and then leases for itself.
    assert counts(2, "load") == [("a", None, 7), ("b", 3, 1)]
    assert counts(4, "loadscope") == [("a", None, 6), ("b", 3, 1)]
    assert counts(3, "each") == [("a", None, 18), ("b", 3, 3)]
    assert needs_of([], workers=1, dist="no") == []


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ("'s', per='day'", "per is 'day'; allowed: test, class, module, session"),
        ("'s', isolation='table'", "isolation is 'table'; allowed: rows, database"),
        ("'s', baseline='b'", "baseline goes with isolation='database'"),
        ("'s', isolation='database', cleanup='leave'", "cleanup='leave' is not possible"),
        ("'s', seed='7'", "seed is '7', not a whole number"),
        ("''", "the scenario is ''"),
    ],
)
def test_a_marker_that_makes_no_sense_says_why(
    suite: pytest.Pytester, arguments: str, problem: str
) -> None:
    suite.makepyfile(
        f"import pytest\n@pytest.mark.atdm_scenario({arguments})\ndef test_one(atdm_data): pass"
    )
    result = suite.runpytest_inprocess()
    result.assert_outcomes(errors=1)
    assert problem in result.stdout.str()


def test_a_suite_without_the_marker_imports_no_driver(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import sys
        def test_nothing_is_loaded():
            loaded = {name.partition(".")[0] for name in sys.modules}
            assert "atdm" in loaded
            assert not loaded & {"psycopg", "dagster", "pydantic", "pandas", "typer", "rich"}
            assert "atdm.client.sync" not in sys.modules
        """
    )
    pytester.runpytest_subprocess("-p", "no:hypothesispytest").assert_outcomes(passed=1)
