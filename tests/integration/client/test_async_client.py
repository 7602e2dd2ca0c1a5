"""The asyncio client on a real target: what it leases, gives back, and shares with the other."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from atdm import AsyncAtdmClient, AtdmClient, AtdmClientError
from atdm_engine.bundle.registry import Registry
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.catalog import leases as leasing
from atdm_resources.catalog import leases_async
from atdm_resources.postgres.connection import connect
from tests.support.made_requests import rows_left, seeded

SCENARIO = "active_member_clean"


@pytest.fixture
def ready(target: str, tmp_path: Path, registry: Registry) -> str:
    """A target with six ready runs."""
    with connect(target) as conn:
        seeded(conn, tmp_path, registry, SCENARIO, runs=6)
    return target


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


def statuses(url: str) -> dict[str, int]:
    with connect(url) as conn:
        found = conn.execute("SELECT status, count(*) FROM atdm.test_run GROUP BY 1").fetchall()
    return dict(found)


async def give_back(client: AsyncAtdmClient, data: dict[str, Any]) -> dict[str, Any]:
    return await client.reset_run(data["test_run_id"], data["cleanup"]["cleanup_token"])


def test_leases_and_resets_at_once(ready: str) -> None:
    async def work() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        async with AsyncAtdmClient(ready) as client:
            leases = await asyncio.gather(*(client.request_scenario(SCENARIO) for _ in range(6)))
            return leases, await asyncio.gather(*(give_back(client, data) for data in leases))

    leases, resets = run(work())
    assert len({data["test_run_id"] for data in leases}) == 6
    assert all("atdm_" not in repr(data) for data in leases)
    assert {done["status"] for done in resets} == {"cleaned"}
    assert statuses(ready) == {"cleaned": 6}
    with connect(ready) as conn:
        assert set(rows_left(conn, leases[0]["test_run_id"]).values()) == {0}


def test_both_clients_answer_alike(ready: str) -> None:
    async def work() -> tuple[dict[str, Any], dict[str, Any]]:
        async with AsyncAtdmClient(ready, owner="o") as client:
            data = await client.lease(SCENARIO, {"member_status": "active"}, ttl="5m")
            return data, await give_back(client, data)

    data, done = run(work())
    with AtdmClient(ready, owner="o") as client:
        other = client.lease(SCENARIO, {"member_status": "active"}, ttl="5m")
        other_done = client.reset_run(other["test_run_id"], other["cleanup"]["cleanup_token"])
    assert data.keys() == other.keys()
    assert data["data"].keys() == other["data"].keys()
    assert {**done, "test_run_id": ""} == {**other_done, "test_run_id": ""}


def test_several_runs_or_none(ready: str) -> None:
    async def work() -> dict[str, Any]:
        async with AsyncAtdmClient(ready) as client:
            with pytest.raises(AtdmClientError) as caught:
                await client.lease(SCENARIO, runs=7)
            assert caught.value.code is ErrorCode.NONE_READY
            assert statuses(ready) == {"ready": 6}
            return await client.lease(SCENARIO, runs=6)

    assert len(run(work())["runs"]) == 6
    assert statuses(ready) == {"leased": 6}


def test_an_owner_gives_everything_back(ready: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATDM_OWNER_SECRET", "hush")

    async def work() -> tuple[dict[str, Any], list[dict[str, Any]]]:
        async with AsyncAtdmClient(ready, owner="team") as client:
            await client.lease(SCENARIO, runs=2)
            held = await client.catalog(owner="team", status="leased")
            with pytest.raises(AtdmClientError) as caught:
                await client.reset_owner("team", "wrong")
            assert caught.value.code is ErrorCode.TOKEN_MISMATCH
            return await client.reset_owner("team", "hush"), held

    done, held = run(work())
    assert sorted(done["runs"]) == sorted(item["test_run_id"] for item in held)
    assert statuses(ready) == {"ready": 4, "cleaned": 2}


@pytest.mark.parametrize(
    ("asked", "code", "words"),
    [
        ({"scenario": "active_membr_clean"}, ErrorCode.SCENARIO_NOT_FOUND, "did you mean"),
        (
            {"scenario": SCENARIO, "constraints": {"membr_status": "x"}},
            ErrorCode.CONSTRAINT_INVALID,
            "did you mean 'member_status'",
        ),
        ({"scenario": SCENARIO, "ttl": "400d"}, ErrorCode.REQUEST_INVALID, "at most 366 days"),
    ],
)
def test_errors_are_those_of_the_other_client(
    ready: str, asked: dict[str, Any], code: ErrorCode, words: str
) -> None:
    async def work() -> AtdmClientError:
        async with AsyncAtdmClient(ready) as client:
            with pytest.raises(AtdmClientError, match=words) as caught:
                await client.lease(**asked)
            assert (await client.lease(SCENARIO))["status"] == "ready"
            return caught.value

    error = run(work())
    with AtdmClient(ready) as client, pytest.raises(AtdmClientError) as caught:
        client.lease(**asked)
    assert error.code is code
    assert error.body == caught.value.body


def test_no_server_is_one_clear_error() -> None:
    async def work() -> None:
        async with AsyncAtdmClient("postgresql://me:hidden@127.0.0.1:1/x") as client:
            await client.lease(SCENARIO)

    with pytest.raises(AtdmClientError) as caught:
        run(work())
    assert caught.value.code is ErrorCode.TARGET_UNREACHABLE
    assert "hidden" not in str(caught.value.body)


def test_a_database_without_a_catalog_says_so(empty_database: str) -> None:
    async def work() -> None:
        async with AsyncAtdmClient(empty_database) as client:
            await client.lease(SCENARIO)

    with pytest.raises(AtdmClientError) as caught:
        run(work())
    assert caught.value.code is ErrorCode.TARGET_NOT_INITIALISED


def test_a_lost_connection_is_opened_again(ready: str) -> None:
    async def work() -> None:
        async with AsyncAtdmClient(ready) as client:
            await client.lease(SCENARIO)
            await client.close()
            assert (await client.lease(SCENARIO))["status"] == "ready"

    run(work())


def test_a_lease_that_is_cancelled_on_its_way_is_given_back(
    ready: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    leased = asyncio.Event()
    lease = leases_async.lease

    async def slow(*arguments: Any, **options: Any) -> Any:
        found = await lease(*arguments, **options)
        leased.set()
        await asyncio.sleep(0.05)
        return found

    monkeypatch.setattr(leases_async, "lease", slow)

    async def work() -> None:
        async with AsyncAtdmClient(ready) as client:
            task = asyncio.ensure_future(client.lease(SCENARIO))
            await leased.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    run(work())
    assert statuses(ready) == {"ready": 5, "cleaned": 1}


def test_what_is_made_for_nobody_is_given_back(ready: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Making goes on in its thread when whoever waits for it is cancelled."""
    real = AtdmClient.request_scenario
    started = asyncio.Event()

    async def work() -> None:
        loop = asyncio.get_running_loop()

        def slow(self: AtdmClient, *arguments: Any, **options: Any) -> dict[str, Any]:
            # A pinned seed never leases what is ready; here something stands for what it makes.
            answer = real(self, SCENARIO)
            loop.call_soon_threadsafe(started.set)
            import time

            time.sleep(0.1)
            return answer

        monkeypatch.setattr(AtdmClient, "request_scenario", slow)
        async with AsyncAtdmClient(ready) as client:
            task = asyncio.ensure_future(client.request_scenario(SCENARIO, seed=1))
            await started.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    run(work())
    assert statuses(ready) == {"ready": 5, "cleaned": 1}


def test_a_lost_deadlock_is_tried_again_by_both(monkeypatch: pytest.MonkeyPatch) -> None:
    """The retry is written once: here it is driven by hand."""
    from atdm_resources.catalog import lease_calls

    lost = {"error": {"code": "BUSY", "message": "m", "details": {"sqlstate": "40P01"}}}
    steps = lease_calls.reset_run("run", "token")
    assert isinstance(next(steps), lease_calls.Call)
    assert isinstance(steps.send(lost), lease_calls.Pause)
    assert isinstance(steps.send(None), lease_calls.Call)
    with pytest.raises(StopIteration) as caught:
        steps.send({"status": "cleaned"})
    assert caught.value.value == {"status": "cleaned"}

    steps = lease_calls.reset_run("run", "token")
    told: list[Any] = [None, *[lost, None] * 4]
    assert sum(isinstance(steps.send(answer), lease_calls.Call) for answer in told) == 5
    with pytest.raises(AtdmError) as refused:
        steps.send(lost)
    assert refused.value.code is ErrorCode.BUSY


def test_both_clients_have_the_same_methods_and_signatures() -> None:
    def methods(client: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(method).parameters)
            for name, method in inspect.getmembers(client, inspect.isfunction)
            if not name.startswith("_")
        }

    assert methods(AsyncAtdmClient) == methods(AtdmClient)
    wanted = {
        "request_scenario", "reset_run", "reset_all", "baseline_snapshot", "baseline_restore",
        "baseline_list", "get_audit", "get_scenarios", "lease", "catalog",
    }  # fmt: skip
    assert wanted <= methods(AtdmClient).keys()
    for name in ("lease", "lease_request", "claim", "reset_run", "reset_owner"):
        blocking, waiting = getattr(leasing, name), getattr(leases_async, name)
        assert inspect.signature(blocking) == inspect.signature(waiting)
        assert inspect.iscoroutinefunction(waiting)
