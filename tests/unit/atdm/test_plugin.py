"""The pytest plugin against a client that only pretends (``atdm_client`` is overridable)."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]

FAKE = """
import pytest
from atdm.client import AtdmClientError
from atdm.response import leased
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
    return pytester


def test_the_marker_is_known_under_strict_markers(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("import pytest\n@pytest.mark.atdm_scenario('s')\ndef test_one(): pass\n")
    pytester.runpytest_subprocess("--strict-markers").assert_outcomes(passed=1)
    pytester.runpytest_subprocess("--markers").stdout.fnmatch_lines(["*atdm_scenario(name,*"])


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
    suite.runpytest_subprocess("-p", "no:randomly").assert_outcomes(passed=3)


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
    suite.runpytest_subprocess().assert_outcomes(passed=2)


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
    result = suite.runpytest_subprocess("--showlocals", "-vv")
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(
        [
            "*scenario s, test run 01K7ZQ0000ABCDEFGHJK000001*",
            "*atdm request d/s -c 'reason=a b' --seed 42 --as-of 2026-01-01T00:00:00+00:00*",
        ]
    )
    assert "atdm_hush" not in result.stdout.str() + result.stderr.str()


def test_without_the_marker_it_is_a_usage_error(suite: pytest.Pytester) -> None:
    suite.makepyfile("def test_one(atdm_data): pass")
    result = suite.runpytest_subprocess()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*UsageError*test_one uses atdm_data: mark it with*"])


@pytest.mark.parametrize("arguments", ["", "1", "'s', 'text'", "'s', colour='red'"])
def test_wrong_marker_arguments_are_a_usage_error(suite: pytest.Pytester, arguments: str) -> None:
    suite.makepyfile(
        f"import pytest\n@pytest.mark.atdm_scenario({arguments})\ndef test_one(atdm_data): pass"
    )
    result = suite.runpytest_subprocess()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*UsageError*write atdm_scenario(name,*"])


def test_an_unreachable_target_fails_fast_and_never_skips(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        import pytest
        from conftest import CALLS, CLIENT
        CLIENT.unreachable = True
        pytestmark = pytest.mark.atdm_scenario("s")

        def test_one(atdm_data): pass
        def test_two(atdm_data): pass
        def test_three(): assert len(CALLS) == 1
        """
    )
    result = suite.runpytest_subprocess()
    result.assert_outcomes(errors=2, passed=1)
    result.stdout.fnmatch_lines(["*atdm TARGET_UNREACHABLE: no server at db:5432*"])
    assert "Traceback" not in result.stdout.str()


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
    result = suite.runpytest_subprocess()
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
    result = suite.runpytest_subprocess()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*scenario s is made to be rejected*"])


def test_a_suite_without_the_marker_imports_no_driver(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import sys
        def test_nothing_is_loaded():
            loaded = {name.partition(".")[0] for name in sys.modules}
            assert "atdm" in loaded
            assert not loaded & {"psycopg", "dagster", "pydantic", "pandas", "typer", "rich"}
            assert "atdm.client" not in sys.modules
        """
    )
    pytester.runpytest_subprocess("-p", "no:hypothesispytest").assert_outcomes(passed=1)
