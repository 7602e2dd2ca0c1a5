"""Files in the inbox: each becomes a row of the queue, is answered in the outbox, or put aside."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

import dagster as dg
import psycopg
import pytest

from atdm_assets.queue import sensor as queue
from atdm_assets.resources import StoreResource
from atdm_resources.catalog import leases as leasing
from atdm_resources.catalog import queue as queueing
from atdm_resources.postgres.connection import connect
from atdm_resources.store.files import Store
from atdm_services.queue import inbox
from tests.support.dagster_world import World
from tests.support.queue_steps import CLEAN, execute, submit, tick

pytest_plugins = ["tests.support.dagster_fixtures"]


@pytest.fixture
def conn(world: World) -> Any:
    with connect(world.target_url) as connection:
        yield connection


def drop(world: World, name: str, content: Any) -> None:
    folder = world.store / "inbox"
    folder.mkdir(exist_ok=True)
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    (folder / name).write_bytes(text)


def test_a_file_becomes_a_row_and_its_answer_a_file(
    world: World, conn: psycopg.Connection[Any]
) -> None:
    drop(world, "order-1.json", {"scenario": CLEAN, "runs": 2, "reason": "nightly"})
    (request,) = tick(world, conn)
    assert world.files() == []
    execute(world, request)
    tick(world, conn)
    answer = json.loads((world.store / "outbox/order-1.json").read_text())
    assert answer["status"] == "fulfilled"
    assert len(answer["answer"]["test_run_ids"]) == 2
    leases = leasing.claim(conn, answer["idempotency_key"])
    assert len(leases) == 2
    assert leases[0]["token"] not in (world.store / "outbox/order-1.json").read_text()


def test_a_store_that_is_down_keeps_files_waiting_and_nobody_else(
    world: World, conn: psycopg.Connection[Any]
) -> None:
    drop(world, "order-1.json", {"scenario": CLEAN})
    submit(conn, "direct")
    sensor = queue.queue_sensor(world.registry, [], None)
    away = StoreResource(store_url="s3://away/x", endpoint_url="http://127.0.0.1:9")

    def evaluated(store: StoreResource, cursor: str | None = None) -> tuple[Any, str | None]:
        context = dg.build_sensor_context(
            instance=world.instance,
            cursor=cursor,
            resources={"target": world.resources["target"], "store": store},
        )
        return sensor(context), context.cursor

    troubled, until_then = evaluated(away)
    assert [request.tags["atdm/source"] for request in troubled.run_requests] == ["queue"]
    assert until_then is not None
    rests, _ = evaluated(away, until_then)
    assert "the inbox is not read" in rests.skip_message
    again, _ = evaluated(away)
    assert "the inbox cannot be read" in again.skip_message
    past = datetime.fromisoformat(until_then) - timedelta(hours=1)
    recovered, _ = evaluated(world.resources["store"], past.isoformat())
    assert len(recovered.run_requests) == 1
    assert not (world.store / "inbox" / "order-1.json").exists()


def test_bad_files_are_put_aside_with_the_reason_and_keep_nobody(
    world: World, conn: psycopg.Connection[Any]
) -> None:
    bad = {
        "torn.json": b'{"scenario": ',
        "list.json": b"[]",
        "binary.json": bytes(range(256)),
        "deep.json": b"[" * 50_000,
        "large.json": b" " * (inbox.LARGEST + 1),
        "field.json": b'{"scenario": "x", "token": "y"}',
        "nul.json": b'{"scenario": "a\\u0000b"}',
        "nan.json": b'{"scenario": "a", "priority": NaN}',
        "sp ace.json": b'{"scenario": "a"}',
    }
    for name, content in bad.items():
        drop(world, name, content)
    drop(world, "good.json", {"scenario": CLEAN})
    drop(world, ".hidden.json", {"scenario": CLEAN})
    drop(world, "half.json.tmp", b"{")
    assert len(tick(world, conn)) == 1
    left = sorted(path.name for path in (world.store / "inbox").iterdir() if path.is_file())
    assert left == [".hidden.json", "half.json.tmp"]
    reasons = sorted((world.store / "inbox/rejected").rglob("*.reason.json"))
    assert len(reasons) == len(bad)
    for reason in reasons:
        said = json.loads(reason.read_text())
        assert said["error"]["code"] == "REQUEST_INVALID"
        assert said["error"]["message"]
        assert reason.with_name(reason.name.removesuffix(".reason.json")).exists()
    assert queueing.waiting(conn) == {"waiting": 0, "launched": 1}


def test_a_file_with_an_unknown_scenario_is_answered_in_the_outbox(
    world: World, conn: psycopg.Connection[Any]
) -> None:
    drop(world, "who.json", {"scenario": "nobody"})
    tick(world, conn)
    answer = json.loads((world.store / "outbox/who.json").read_text())
    assert answer["status"] == "rejected"
    assert answer["answer"]["error"]["code"] == "SCENARIO_NOT_FOUND"


def test_a_file_that_is_taken_in_twice_is_one_submission(
    world: World, conn: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(world.store.as_uri())
    drop(world, "twice.json", {"scenario": CLEAN})
    with monkeypatch.context() as patch:
        # The process ends between the row's commit and the file's removal.
        patch.setattr(Store, "delete_prefix", lambda *_: 0)
        inbox.take_in(conn, store, 10)
    assert (world.store / "inbox/twice.json").exists()
    inbox.take_in(conn, store, 10)
    assert not (world.store / "inbox/twice.json").exists()
    assert queueing.waiting(conn)["waiting"] == 1
