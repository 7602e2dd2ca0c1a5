"""What decides between leasing and making; the database and the graph only pretend."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from atdm.client.sync import AtdmClient, AtdmClientError
from atdm.in_dagster import make
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.settings import Settings
from atdm_services.extras import server_part
from atdm_services.progress import Silent
from atdm_services.requests import request
from atdm_services.requests.request import LeaseRequest

REQUEST_ID = "01K7ZQ0000ABCDEFGHJK000000"


class Connection:
    @contextmanager
    def transaction(self) -> Iterator[None]:
        yield


def lease(number: int) -> dict[str, Any]:
    return {
        "request_id": REQUEST_ID,
        "test_run_id": f"{REQUEST_ID[:20]}00000{number}",
        "scenario_id": "s",
        "domain": "d",
        "token": "atdm_hush",
        "data": {},
        "owner": "o",
        "expires_at": "2026-01-01T00:00:00+00:00",
        "seed": 1,
        "as_of": "2026-01-01T00:00:00+00:00",
    }


class Leasing:
    """Stands for ``atdm_resources.catalog.leases``: so many ready runs, then NONE_READY."""

    def __init__(self, ready: int = 0, refusal: ErrorCode = ErrorCode.NONE_READY) -> None:
        self.ready = ready
        self.refusal = refusal
        self.calls: list[tuple[Any, ...]] = []

    def lease(self, conn: Any, domain: str | None, scenario: str, given: Any, **who: Any) -> Any:
        self.calls.append(("lease", domain, scenario, dict(given), who["owner"]))
        if not self.ready:
            raise AtdmError(self.refusal, "not now")
        self.ready -= 1
        return lease(self.ready + 1)

    def lease_request(self, conn: Any, request_id: str, **who: Any) -> Any:
        self.calls.append(("lease_request", request_id, who["count"]))
        return [lease(number) for number in range(1, who["count"] + 1)]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.from_environment({"ATDM_HOME": str(tmp_path), "ATDM_INVOKER": "human:me"})


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[LeaseRequest]:
    """Requests that were made instead of leased."""
    requests: list[LeaseRequest] = []
    module = ModuleType("atdm_assets.in_process.requests")

    def materialise(
        settings: Settings, reporter: Any, connection: Any, request: LeaseRequest
    ) -> Any:
        requests.append(request)
        spec = SimpleNamespace(violates=["x.y"])
        scenario = SimpleNamespace(name=request.scenario, domain="d", spec=spec)
        status = "rejected" if request.scenario == "negative" else "ready"
        return SimpleNamespace(request_id=REQUEST_ID, scenario=scenario, status=status)

    module.materialise = materialise  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "atdm_assets.in_process.requests", module)
    monkeypatch.setattr("atdm_assets.in_process.requests", module, raising=False)
    return requests


def asked(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, leasing: Leasing, **wanted: Any
) -> dict[str, Any]:
    monkeypatch.setattr(request, "leases", leasing)
    connection: Any = Connection()
    wanted = {"scenario": "s", "invoker": settings.invoker, **wanted}
    return request.request_data(settings, Silent(), connection, LeaseRequest(**wanted), make)


def test_a_ready_run_is_leased(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, made: list[LeaseRequest]
) -> None:
    leasing = Leasing(ready=1)
    answer = asked(monkeypatch, settings, leasing, scenario="d/s", constraints={"a": "1"})
    assert answer["status"] == "ready"
    assert leasing.calls == [("lease", "d", "s", {"a": "1"}, "human:me")]
    assert made == []


def test_nothing_ready_is_made_and_that_request_leased(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, made: list[LeaseRequest]
) -> None:
    leasing = Leasing()
    answer = asked(monkeypatch, settings, leasing, owner="ci")
    assert answer["test_run_id"].startswith(REQUEST_ID[:20])
    assert [request.owner for request in made] == ["ci"]
    assert leasing.calls == [("lease", None, "s", {}, "ci"), ("lease_request", REQUEST_ID, 1)]


@pytest.mark.parametrize("pinned", [{"seed": 1}, {"label": "x"}, {"as_of": object()}])
def test_pinned_data_never_comes_from_a_pool(
    monkeypatch: pytest.MonkeyPatch,
    settings: Settings,
    made: list[LeaseRequest],
    pinned: dict[str, Any],
) -> None:
    leasing = Leasing(ready=5)
    asked(monkeypatch, settings, leasing, **pinned)
    assert leasing.calls == [("lease_request", REQUEST_ID, 1)]
    assert len(made) == 1


def test_several_runs_come_from_the_pool_all_or_none(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, made: list[LeaseRequest]
) -> None:
    assert len(asked(monkeypatch, settings, Leasing(ready=3), runs=3)["runs"]) == 3
    assert made == []
    leasing = Leasing(ready=2)
    answer = asked(monkeypatch, settings, leasing, runs=3)
    assert leasing.calls[-1] == ("lease_request", REQUEST_ID, 3)
    assert len(answer["runs"]) == 3
    assert [request.runs for request in made] == [3]


def test_runs_may_be_left_for_others(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, made: list[LeaseRequest]
) -> None:
    leasing = Leasing(ready=1)
    answer = asked(monkeypatch, settings, leasing, pooled=True, runs=40)
    assert leasing.calls == []
    assert answer["ready_runs"] == 40
    assert answer["last_test_run_id"].endswith("000018")  # 40 in base 32
    assert "cleanup" not in answer


def test_an_expected_rejection_is_an_answer(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, made: list[LeaseRequest]
) -> None:
    answer = asked(monkeypatch, settings, Leasing(), scenario="negative")
    assert (answer["status"], answer["violates"]) == ("rejected", ["x.y"])
    assert answer["test_run_id"] is None


@pytest.mark.parametrize("code", [ErrorCode.BUSY, ErrorCode.CONSTRAINT_INVALID])
def test_other_refusals_are_not_answered_by_making(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, made: list[LeaseRequest], code: ErrorCode
) -> None:
    with pytest.raises(AtdmError) as caught:
        asked(monkeypatch, settings, Leasing(refusal=code))
    assert caught.value.code is code
    assert made == []


def test_a_target_named_by_url_is_not_initialised_unasked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, made: list[LeaseRequest]
) -> None:
    named = Settings.from_environment(
        {"ATDM_HOME": str(tmp_path), "ATDM_DATABASE_URL": "postgresql://db/x"}
    )
    with pytest.raises(AtdmError) as caught:
        asked(monkeypatch, named, Leasing(refusal=ErrorCode.TARGET_NOT_INITIALISED))
    assert caught.value.code is ErrorCode.TARGET_NOT_INITIALISED
    assert made == []


def test_a_client_installation_says_what_making_would_need(
    monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    monkeypatch.setitem(sys.modules, "dagster", None)
    monkeypatch.delitem(sys.modules, "atdm_assets.in_process.requests", raising=False)
    monkeypatch.delattr("atdm_assets.in_process.requests", raising=False)
    with pytest.raises(AtdmError) as caught:
        asked(monkeypatch, settings, Leasing())
    assert caught.value.code is ErrorCode.NONE_READY
    assert "pip install 'atdm[server,embedded]'" in caught.value.details["hint"]
    with pytest.raises(AtdmError) as pinned:
        asked(monkeypatch, settings, Leasing(), seed=1)
    assert pinned.value.code is ErrorCode.MISSING_EXTRA


def test_a_language_model_is_refused_before_anything_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, made: list[LeaseRequest]
) -> None:
    leasing = Leasing(ready=1)
    told = Settings.from_environment({"ATDM_HOME": str(tmp_path), "ATDM_PLANNER": "llm"})
    with pytest.raises(AtdmError) as caught:
        asked(monkeypatch, told, leasing)
    assert caught.value.code is ErrorCode.LLM_MODE_NOT_ENABLED
    assert leasing.calls == []


def test_a_module_of_our_own_that_is_missing_is_a_defect_and_no_missing_extra() -> None:
    with pytest.raises(ModuleNotFoundError), server_part("x"):
        raise ModuleNotFoundError("gone", name="atdm_assets.gone")


def test_the_client_raises_its_own_error_with_the_code() -> None:
    with (
        AtdmClient("postgresql://nobody:hidden@127.0.0.1:1/x") as client,
        pytest.raises(AtdmClientError) as caught,
    ):
        client.request_scenario("s")
    error = caught.value
    assert error.code is ErrorCode.TARGET_UNREACHABLE
    assert error.body["error"]["code"] == "TARGET_UNREACHABLE"
    assert "hidden" not in str(error.body)


def test_the_client_refuses_times_that_are_none() -> None:
    with AtdmClient("postgresql://x@127.0.0.1:1/x") as client:
        for wrong in ({"ttl": "4 hours"}, {"as_of": "yesterday"}):
            with pytest.raises(AtdmClientError) as caught:
                client.request_scenario("s", **wrong)  # type: ignore[arg-type]
            assert caught.value.code is ErrorCode.REQUEST_INVALID


def test_a_request_does_not_show_its_secret() -> None:
    assert "s3cret" not in repr(LeaseRequest("s", invoker="human:me", owner_secret="s3cret"))
