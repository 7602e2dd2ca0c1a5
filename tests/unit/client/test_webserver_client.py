"""A client of a Dagster webserver: what it asks, and what answers and failures mean to it."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import pytest

from atdm.client import graphql, remote_runs
from atdm.client.graphql import DagsterWebserver
from atdm.client.remote_runs import RemoteRuns
from atdm.client.sync import AtdmClient, AtdmClientError
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.settings import Settings
from atdm_services.requests import request as requesting
from atdm_services.requests.request import LeaseRequest

URL = "http://dagster.example:3000/team"
REQUEST_ID = "01K7ZQ0000ABCDEFGHJK000000"

Handler = Callable[[httpx.Request], httpx.Response]


def text(label: str, value: str) -> dict[str, Any]:
    return {"label": label, "text": value}


def as_json(label: str, value: Any) -> dict[str, Any]:
    return {"label": label, "jsonString": json.dumps(value)}


def location(name: str, *jobs: str) -> dict[str, Any]:
    repository = {"name": "__repository__", "jobs": [{"name": job} for job in jobs]}
    loaded = {"__typename": "RepositoryLocation", "repositories": [repository]}
    return {"name": name, "locationOrLoadError": loaded}


class Webserver:
    """Answers as a Dagster webserver does: one parent run, and the run that it starts."""

    def __init__(self) -> None:
        self.locations = [location("atdm", *remote_runs.JOBS)]
        self.launched: list[dict[str, Any]] = []
        self.launch: dict[str, Any] = {"__typename": "LaunchRunSuccess", "run": {"runId": "parent"}}
        self.statuses = ["STARTING", "SUCCESS"]
        self.tags = {"atdm/request_id": REQUEST_ID}
        self.events: dict[str, list[dict[str, Any]]] = {"parent": [], "child": []}
        self.assets = [["d", "test_runs"], ["d", "s", "test_runs"], ["e", "test_runs"], ["d", "x"]]

    def __call__(self, request: httpx.Request) -> httpx.Response:
        assert str(request.url) == f"{URL}/graphql"
        asked = json.loads(request.content)
        return httpx.Response(200, json={"data": self.answer(asked["query"], asked["variables"])})

    def answer(self, query: str, given: dict[str, Any]) -> dict[str, Any]:
        if "workspaceOrError" in query:
            entries = {"__typename": "Workspace", "locationEntries": self.locations}
            return {"workspaceOrError": entries}
        if "launchRun" in query:
            self.launched.append(given["params"])
            return {"launchRun": self.launch}
        if "assetNodes" in query:
            return {"assetNodes": [{"assetKey": {"path": path}} for path in self.assets]}
        if "runsOrError" in query:
            assert given["filter"] == {"tags": [{"key": "atdm/parent_run", "value": "parent"}]}
            return {"runsOrError": {"__typename": "Runs", "results": [{"runId": "child"}]}}
        run = {"__typename": "Run", "status": self.statuses[0], "jobName": "request_data"}
        if len(self.statuses) > 1:
            self.statuses.pop(0)
        if "eventConnection" in query:
            # Two pages, as of a run with many events.
            first, rest = self.events[given["id"]][:1], self.events[given["id"]][1:]
            page = rest if given["after"] else first
            run["tags"] = [{"key": key, "value": value} for key, value in self.tags.items()]
            run["eventConnection"] = {"cursor": "c", "hasMore": not given["after"], "events": page}
        return {"runOrError": run}

    def fails(self, *events: dict[str, Any], status: str = "FAILURE") -> None:
        self.statuses = [status]
        self.events["parent"] = list(events)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphql, "_FIRST_POLL_SECONDS", 0.001)


@pytest.fixture
def webserver() -> Webserver:
    return Webserver()


def remote(answers: Handler, **options: Any) -> RemoteRuns:
    opened = DagsterWebserver(URL, transport=httpx.MockTransport(answers), **options)
    return RemoteRuns(opened, invoker="agent:ci", source="client", timeout=5)


def config(webserver: Webserver, step: str) -> dict[str, Any]:
    (params,) = webserver.launched
    found: dict[str, Any] = params["runConfigData"]["ops"][step]["config"]
    return found


def request_events(**checks: bool) -> list[dict[str, Any]]:
    made = {
        "__typename": "MaterializationEvent",
        "assetKey": {"path": ["d", "s", "request"]},
        "partition": REQUEST_ID,
        "metadataEntries": [],
    }
    evaluations = [
        {
            "__typename": "AssetCheckEvaluationEvent",
            "evaluation": {
                "checkName": name,
                "metadataEntries": [{"label": "expected_violation", "boolValue": value}],
            },
        }
        for name, value in checks.items()
    ]
    return [made, *evaluations]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.from_environment({"ATDM_HOME": str(tmp_path), "ATDM_INVOKER": "agent:ci"})


def never() -> Any:
    raise AssertionError("no connection is needed")


def test_runs_are_made_by_the_webserver_and_left_ready(
    webserver: Webserver, settings: Settings
) -> None:
    webserver.events["child"] = request_events(schema=False)
    wanted = LeaseRequest(
        "d/s", invoker="human:me", constraints={"born": date(2000, 1, 31), "n": 2}, runs=3,
        pooled=True, seed=2**62 + 1, reason="because",
    )  # fmt: skip
    answer = remote(webserver).request(settings, never, wanted)
    assert (answer["status"], answer["leased"], answer["ready_runs"]) == ("ready", False, 3)
    assert answer["last_test_run_id"] == "01K7ZQ0000ABCDEFGHJK000003"
    assert config(webserver, "request") == {
        "scenario": "d/s",
        "constraints": {"born": "2000-01-31", "n": 2},
        "runs": 3,
        "seed": 2**62 + 1,
        "pooled": True,
        "reason": "because",
        "invoker": "agent:ci",
    }
    (params,) = webserver.launched
    assert params["selector"]["repositoryLocationName"] == "atdm"
    assert params["executionMetadata"]["tags"] == [
        {"key": "atdm/invoker", "value": "agent:ci"},
        {"key": "atdm/source", "value": "client"},
    ]


@pytest.mark.parametrize(
    ("pool", "launched"), [(["leased"], []), ([], ["lease_request"])], ids=["ready", "none ready"]
)
def test_what_is_ready_is_leased_else_made_and_leased_by_its_request(
    webserver: Webserver, settings: Settings, monkeypatch: pytest.MonkeyPatch,
    pool: list[str], launched: list[str],
) -> None:  # fmt: skip
    webserver.events["child"] = request_events()
    calls: list[str] = []

    def from_pool(*_: Any) -> dict[str, Any]:
        if not pool:
            raise AtdmError(ErrorCode.NONE_READY, "none")
        return {"test_run_id": pool[0]}

    def of_request(_conn: Any, request_id: str, _request: Any) -> dict[str, Any]:
        assert request_id == REQUEST_ID
        calls.append("lease_request")
        return {"test_run_id": "made"}

    monkeypatch.setattr(requesting, "from_pool", from_pool)
    monkeypatch.setattr(requesting, "of_request", of_request)
    answer = remote(webserver).request(
        settings, lambda: None, LeaseRequest("s", invoker="human:me")
    )  # type: ignore[arg-type, return-value]
    assert calls == launched
    assert len(webserver.launched) == len(launched)
    assert answer["test_run_id"] == (pool or ["made"])[0]
    if launched:
        assert config(webserver, "request")["pooled"] is False


def test_another_target_than_the_webservers_is_named(
    webserver: Webserver, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    webserver.events["child"] = request_events()

    def of_request(*_: Any) -> Any:
        raise AtdmError(ErrorCode.RUN_NOT_FOUND, "no request")

    monkeypatch.setattr(requesting, "of_request", of_request)
    with pytest.raises(AtdmError) as caught:
        remote(webserver).request(
            settings, lambda: None, LeaseRequest("s", invoker="human:me", seed=1)
        )  # type: ignore[arg-type, return-value]
    assert "is database_url the same database" in caught.value.details["hint"]


def test_a_scenario_that_breaks_its_rules_is_rejected_as_expected(
    webserver: Webserver, settings: Settings
) -> None:
    webserver.events["child"] = request_events(schema=False, domain__rule=True)
    answer = remote(webserver).request(
        settings, never, LeaseRequest("s", invoker="human:me", pooled=True)
    )
    assert (answer["status"], answer["expected"]) == ("rejected", True)
    assert answer["violates"] == ["domain.rule"]


def step_failure(*metadata: dict[str, Any], message: str = "boom") -> dict[str, Any]:
    return {
        "__typename": "ExecutionStepFailureEvent",
        "error": {"message": f"dagster.Failure: {message}\n"},
        "failureMetadata": {"description": message, "metadataEntries": list(metadata)}
        if metadata
        else None,
    }


@pytest.mark.parametrize(
    ("events", "status", "code", "words"),
    [
        (
            [
                step_failure(
                    text("error_code", "CONSTRAINT_INVALID"),
                    as_json("error_details", {"problems": [1]}),
                    message="claim_status: 'lost' is not one of: paid",
                )
            ],
            "FAILURE",
            ErrorCode.CONSTRAINT_INVALID,
            "'lost' is not one of",
        ),
        (
            [step_failure(message="KeyError: x")],
            "FAILURE",
            ErrorCode.DAGSTER_RUN_FAILED,
            "KeyError",
        ),
        (
            [{"__typename": "RunFailureEvent", "message": "the process died", "error": None}],
            "FAILURE",
            ErrorCode.DAGSTER_RUN_FAILED,
            "the process died",
        ),
        (
            [{"__typename": "RunCanceledEvent", "message": "somebody cancelled it"}],
            "CANCELED",
            ErrorCode.DAGSTER_RUN_FAILED,
            "somebody cancelled it",
        ),
        ([], "FAILURE", ErrorCode.DAGSTER_RUN_FAILED, "no reason was recorded"),
    ],
    ids=["a code of ATDM", "any exception", "killed", "cancelled", "nothing"],
)
def test_a_failed_run_raises_what_dagster_recorded(
    webserver: Webserver, settings: Settings, events: list[dict[str, Any]], status: str,
    code: ErrorCode, words: str,
) -> None:  # fmt: skip
    webserver.fails(*events, status=status)
    with pytest.raises(AtdmError) as caught:
        remote(webserver).request(
            settings, never, LeaseRequest("s", invoker="human:me", pooled=True)
        )
    assert caught.value.code is code
    assert words in caught.value.message
    assert caught.value.details["dagster_run_id"] == "parent"


@pytest.mark.parametrize(("status", "hint"), [("QUEUED", "daemon"), ("STARTED", "/runs/parent")])
def test_a_run_that_does_not_end_is_left_alone(
    webserver: Webserver, status: str, hint: str
) -> None:
    webserver.statuses = [status]
    asked = DagsterWebserver(URL, transport=httpx.MockTransport(webserver))
    with pytest.raises(AtdmError, match="it continues") as caught:
        asked.run("request_data", {}, {}, timeout=0.02)
    assert caught.value.code is ErrorCode.DAGSTER_RUN_FAILED
    assert hint in caught.value.details["hint"]


def test_a_webserver_that_restarts_while_a_run_is_waited_for_is_forgiven(
    webserver: Webserver, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    webserver.events["child"] = request_events()
    webserver.statuses = ["STARTING", "STARTING", "SUCCESS"]
    away = [httpx.ConnectError("refused")]

    def answers(request: httpx.Request) -> httpx.Response:
        if webserver.launched and away:
            raise away.pop()
        return webserver(request)

    assert remote(answers).request(
        settings, never, LeaseRequest("s", invoker="human:me", pooled=True)
    )["ready_runs"]
    assert not away
    monkeypatch.setattr(graphql, "_GRACE_SECONDS", 0.0)
    away += [httpx.ConnectError("refused")] * 50
    with pytest.raises(AtdmError, match="cannot reach"):
        remote(answers).request(settings, never, LeaseRequest("s", invoker="human:me", pooled=True))


def broken(name: str, message: str) -> dict[str, Any]:
    error = {"__typename": "PythonError", "message": message}
    return {"name": name, "locationOrLoadError": error}


@pytest.mark.parametrize(
    ("locations", "chosen", "words"),
    [
        ([broken("atdm", "SpecError: claim.yaml")], None, "does not load:\natdm: SpecError"),
        ([{"name": "atdm", "locationOrLoadError": None}], None, "still loading"),
        ([location("other", "etl")], None, "no code location of .* has a job request_data"),
        ([], None, "no code location"),
        ([location("a", "request_data"), location("b", "request_data")], None, "several .*: a, b"),
        ([location("a", "request_data")], "c", "no code location 'c'; known: a"),
    ],
)
def test_a_workspace_without_the_job_says_so(
    webserver: Webserver, locations: list[dict[str, Any]], chosen: str | None, words: str
) -> None:
    webserver.locations = locations
    asked = remote(webserver, code_location=chosen)
    with pytest.raises(AtdmError, match=words) as caught:
        asked.webserver.run("request_data", {}, {}, timeout=1)
    assert caught.value.code is ErrorCode.DAGSTER_UNREACHABLE
    assert caught.value.details["hint"]
    assert webserver.launched == []


def test_the_code_location_may_be_named(webserver: Webserver) -> None:
    webserver.locations = [location("a", "request_data"), location("b", "request_data")]
    remote(webserver, code_location="b").webserver.run("request_data", {}, {}, timeout=1)
    assert webserver.launched[0]["selector"]["repositoryLocationName"] == "b"


@pytest.mark.parametrize(
    ("launch", "words", "hint"),
    [
        (
            {"__typename": "RunConfigValidationInvalid", "errors": [{"message": "no such field"}]},
            "no such field",
            "different versions",
        ),
        ({"__typename": "UnauthorizedError", "message": "denied"}, "denied", "read-only"),
    ],
)
def test_a_launch_that_is_refused_says_why(
    webserver: Webserver, launch: dict[str, Any], words: str, hint: str
) -> None:
    webserver.launch = launch
    with pytest.raises(AtdmError, match=words) as caught:
        remote(webserver).webserver.run("request_data", {}, {}, timeout=1)
    assert caught.value.code is ErrorCode.DAGSTER_RUN_FAILED
    assert hint in caught.value.details["hint"]


@pytest.mark.parametrize(
    ("answer", "status_code", "words"),
    [
        (httpx.Response(401), 401, "answered 401"),
        (httpx.Response(302, headers={"location": "https://me:hidden@sso"}), 302, "to https://me"),
        (httpx.Response(200, text="<html>"), 200, "does not answer as a Dagster webserver"),
        (httpx.Response(200, json=[]), 200, "does not answer"),
        (httpx.Response(200, json={"errors": [{"message": "syntax"}]}), 200, "syntax"),
        (httpx.Response(500), 500, "Internal Server Error"),
    ],
)
def test_what_is_no_webserver_is_told_from_one(
    answer: httpx.Response, status_code: int, words: str, settings: Settings
) -> None:
    asked = remote(lambda request: answer, headers={"Authorization": "Bearer hidden"})
    with pytest.raises(AtdmError, match=words) as caught:
        asked.request(settings, never, LeaseRequest("s", invoker="human:me", pooled=True))
    error = AtdmClientError.of(caught.value)
    assert error.code is ErrorCode.DAGSTER_UNREACHABLE
    assert error.status_code == status_code
    assert error.hint
    assert "hidden" not in str(error.body)


def observation(partition: str | None, *entries: dict[str, Any]) -> dict[str, Any]:
    return {
        "__typename": "ObservationEvent",
        "assetKey": {"path": ["d", "baseline"]},
        "partition": partition,
        "metadataEntries": list(entries),
    }


def count(label: str, value: int) -> dict[str, Any]:
    return {"label": label, "intRepr": str(value)}


def test_everything_is_reset_domain_by_domain(webserver: Webserver) -> None:
    webserver.events["parent"] = [
        observation(
            None, count("test_runs", 3), count("deleted/claim", 2**60), count("rows", 5),
            as_json("adopted", {"app.note": 1}), as_json("revoked", [{"owner": "o", "runs": 1}]),
        )
    ]  # fmt: skip
    done = remote(webserver).reset_all(confirm=True, revoke_leases=True)
    assert done["deleted"] == {"d": {"claim": 2**60}, "e": {"claim": 2**60}}
    assert done["adopted"]["e"] == {"app.note": 1}
    assert done["cleared_record_count"] == 6
    assert [item["owner"] for item in done["revoked"]] == ["o", "o"]
    asked = [params["runConfigData"]["ops"]["reset_all_rows"] for params in webserver.launched]
    assert [item["config"]["domain"] for item in asked] == ["d", "e"]
    assert all(item["config"]["confirm"] == "yes" for item in asked)


def test_nothing_is_reset_unconfirmed(webserver: Webserver) -> None:
    with pytest.raises(AtdmError) as caught:
        remote(webserver).reset_all(confirm=False, revoke_leases=True)
    assert caught.value.code is ErrorCode.CONFIRM_REQUIRED
    assert webserver.launched == []


def test_a_baseline_is_captured_and_restored_by_its_jobs(webserver: Webserver) -> None:
    tables = [json.dumps({"table": "claim", "rows": 2, "bytes": 9})]
    captured = observation(
        "bl-1", count("dagster/row_count", 2), count("bytes", 9), text("kind", "captured"),
        {"label": "reason"}, {"label": "tables", "table": {"records": tables}},
    )  # fmt: skip
    webserver.events["child"] = [{**captured, "__typename": "MaterializationEvent"}]
    made = remote(webserver).snapshot(None, domain=None, reason="why")
    assert (made["baseline_id"], made["domain"], made["status"]) == ("bl-1", "d", "captured")
    assert (made["tables"], made["rows"], made["reason"]) == ({"claim": 2}, 2, None)
    assert config(webserver, "snapshot") == {"reason": "why", "invoker": "agent:ci"}

    webserver.launched.clear()
    webserver.events["parent"] = [
        observation(
            "bl-1", count("runs_ready", 4), count("runs_cleaned", 0), count("runs_expired", 1),
            count("rows", 2), as_json("tables", {"claim": 2}), as_json("revoked", []),
        )
    ]  # fmt: skip
    back = remote(webserver).restore("bl-1", domain="d", revoke_leases=True, reason="")
    assert back["runs"] == {"ready": 4, "cleaned": 0, "expired": 1}
    assert (back["baseline_id"], back["tables"], back["status"]) == (
        "bl-1", {"claim": 2}, "restored",
    )  # fmt: skip
    assert config(webserver, "restore")["revoke_leases"] is True


def test_names_are_those_of_the_code_location() -> None:
    from atdm_assets import names

    ours = [
        remote_runs.REQUEST_ID_TAG, remote_runs.INVOKER_TAG, remote_runs.SOURCE_TAG,
        remote_runs.PARENT_TAG, remote_runs.REQUEST_ASSET, remote_runs.TEST_RUNS_ASSET,
    ]  # fmt: skip
    assert ours == [
        names.REQUEST_ID_TAG, names.INVOKER_TAG, names.SOURCE_TAG,
        names.PARENT_TAG, names.REQUEST, names.TEST_RUNS,
    ]  # fmt: skip
    steps = dict(remote_runs.JOBS)
    assert steps == {
        names.REQUEST_JOB: names.REQUEST_STEP,
        names.RESET_ALL_JOB: f"{names.RESET_ALL_JOB}_rows",
        names.SNAPSHOT_JOB: names.SNAPSHOT_STEP,
        names.RESTORE_JOB: names.RESTORE_STEP,
    }


def test_a_webserver_alone_cannot_lease_and_makes_nothing(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for client in (
        AtdmClient(URL, settings=settings),
        AtdmClient(dagster_url=URL, settings=settings),
    ):
        for call in (
            lambda client=client: client.request_scenario("s"),
            lambda client=client: client.lease("s"),
            lambda client=client: client.get_scenarios(),
        ):
            with pytest.raises(AtdmClientError) as caught:
                call()
            assert caught.value.code is ErrorCode.REQUEST_INVALID
            assert "never go through Dagster" in caught.value.message
            assert "database_url=" in (caught.value.hint or "")
    assert not (settings.home / "postgres").exists()
