"""A scenario's graph from end to end, on PostgreSQL: what each ending leaves behind."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pyarrow.parquet as pq
import pytest

from atdm_engine.bundle.registry import Registry
from atdm_engine.bundle.spec_file import SpecFile
from atdm_engine.errors import ErrorCode
from atdm_engine.hashing.content import ContentHash, combined
from atdm_resources.catalog import leases as leasing
from atdm_resources.postgres import run_rows
from atdm_resources.postgres.connection import connect
from atdm_resources.postgres.locks import RequestLock
from atdm_resources.store.bundle import read_bundle, shipped_root
from atdm_services.requests import generation, load
from atdm_services.target.init import initialise
from tests.support.dagster_world import World, error_of, materialised

pytest_plugins = ["tests.support.dagster_fixtures"]

CLEAN = "active_member_clean"
TABLES = ("plan", "member", "eligibility", "provider", "claim")
TRAIL = [
    "request_received",
    "plan_resolved",
    "seed_started",
    "validators_passed",
    "seed_completed",
    "catalog_recorded",
]
NOTHING = {
    "plan": 0,
    "member": 0,
    "eligibility": 0,
    "provider": 0,
    "claim": 0,
    "procedure_code": 0,
    "diagnosis_code": 0,
    "test_run": 0,
}


def read_back_hash(world: World, request_id: str) -> str:
    """The content hash of the request's rows as PostgreSQL has them now."""
    record = world.request(request_id)
    domain = world.registry.domains[record.domain]
    hashes = {}
    with connect(world.target_url) as conn:
        for table in domain.scenarios[record.scenario_id].tables:
            content = ContentHash(domain, table, request_id, record.number_base)
            for rows in run_rows.rows_of_request(
                conn, domain.name, table, domain.tables[table], request_id
            ):
                content.add(rows)
            hashes[table] = content.hexdigest()
    return combined(hashes)


def test_an_accepted_request_is_in_postgresql_in_parquet_and_in_the_event_log(
    world: World,
) -> None:
    result = world.run(CLEAN, "first-label", {"runs": 3, "reason": "because"})
    assert result.success
    record = world.recorded(CLEAN, "first-label")
    assert record is not None
    assert (record.status, record.runs, record.reason) == ("ready", 3, "because")
    assert record.dagster_run_id == result.run_id
    assert world.rows(record.request_id) == {
        **NOTHING,
        **dict.fromkeys(TABLES, 3),
        "test_run": 3,
    }
    assert world.actions(record.request_id) == TRAIL

    assert materialised(result) == ["request", *TABLES, "seeded"]
    assert read_back_hash(world, record.request_id) == record.content_hash
    for table in TABLES:
        path = world.store / record.tables[table]["path"]
        assert pq.read_metadata(path).num_rows == record.tables[table]["rows"] == 3
        assert path.stat().st_size == record.tables[table]["bytes"]

    run = world.instance.get_run_by_id(result.run_id)
    assert run is not None
    assert run.tags["atdm/request_id"] == record.request_id
    assert run.tags["atdm/invoker"] == record.invoker
    assert run.tags["atdm/source"] == "dagster"


def test_a_materialised_table_says_what_it_holds(world: World) -> None:
    result = world.run(CLEAN, "described", {"runs": 2})
    record = world.recorded(CLEAN, "described")
    assert record is not None
    (claim,) = result.asset_materializations_for_node("healthcare__active_member_clean__tables")[
        -1:
    ]
    assert claim.asset_key.path[-1] == "claim"
    shown = {name: value.value for name, value in claim.metadata.items()}
    assert shown["request_id"] == record.request_id
    assert shown["dagster/row_count"] == 2
    assert shown["content_hash"] == record.tables["claim"]["content_hash"]
    assert shown["bytes"] == record.tables["claim"]["bytes"]
    assert shown["dagster/uri"].endswith(record.tables["claim"]["path"])
    assert shown["seconds"] > 0
    assert shown["rows_per_second"] > 0
    columns = [column.name for column in shown["dagster/column_schema"].columns]
    assert columns[0] == "claim_id"
    assert columns[-1] == "test_run_id"
    value = claim.metadata["sample"]
    assert isinstance(value, dg.TableMetadataValue)
    assert len(value.records) == 2
    profile = claim.metadata["profile"]
    assert isinstance(profile, dg.TableMetadataValue)
    status = next(row.data for row in profile.records if row.data["column"] == "status")
    assert (status["nulls"], status["distinct"], status["top"]) == (0, 1, "paid (2)")
    version = claim.tags["dagster/data_version"] if claim.tags else None
    assert version == shown["content_hash"]


def test_every_check_is_recorded_with_how_much_it_judged(world: World) -> None:
    result = world.run("claim_denial_active_member", "checked", {"runs": 4})
    evaluations = {
        (evaluation.asset_key.path[-1], evaluation.check_name): evaluation
        for evaluation in result.get_asset_check_evaluations()
    }
    found = evaluations["claim", "domain__denial_requires_invalid_code"]
    assert found.passed
    assert found.metadata["judged"].value == 4
    assert found.metadata["vacuous"].value is False
    assert len(evaluations) == 12


def test_replaying_makes_the_same_rows_again_under_the_same_ids(world: World) -> None:
    world.run(CLEAN, "again", {"runs": 2, "constraints": {"claim_status": "paid"}})
    first = world.recorded(CLEAN, "again")
    replay = world.run(CLEAN, "again", None)
    assert replay.success
    second = world.recorded(CLEAN, "again")
    assert first is not None
    assert second is not None
    assert second.request_id == first.request_id
    assert second.content_hash == first.content_hash
    assert second.tables == first.tables
    assert world.rows(first.request_id)["test_run"] == 2
    assert world.actions(first.request_id) == [
        *TRAIL,
        "request_received",
        *TRAIL[2:],
    ]


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"constraints": {"claim_status": "pending"}}, "claim_status"),
        ({"runs": 5}, "runs"),
        ({"seed": 7}, "seed"),
        ({"as_of": "2026-01-01T00:00:00Z"}, "as_of"),
        ({"pooled": False}, "pooled"),
    ],
)
def test_replaying_with_another_value_is_refused_by_its_name(
    world: World, config: dict[str, Any], named: str
) -> None:
    outcome = world.ask(CLEAN, label="fixed", runs=1)
    before = world.request(outcome.request_id)
    result = world.run(CLEAN, "fixed", config)
    assert not result.success
    error = error_of(result)
    assert error.code == ErrorCode.REQUEST_CONFLICT
    assert list(error.details["different"]) == [named]
    assert named in error.message
    after = world.request(outcome.request_id)
    assert (after.status, after.content_hash) == ("ready", before.content_hash)
    assert world.rows(outcome.request_id)["claim"] == 1


def test_the_recorded_values_may_be_repeated(world: World) -> None:
    world.ask(CLEAN, label="same", runs=2, seed=42)
    config = {"runs": 2, "seed": 42, "constraints": {"claim_status": "paid"}}
    assert world.run(CLEAN, "same", config).success


def test_a_leased_request_is_not_made_again(world: World) -> None:
    outcome = world.ask(CLEAN, label="leased", pooled=False)
    with connect(world.target_url) as conn:
        leasing.lease_request(conn, outcome.request_id, owner="a test")
    error = error_of(world.run(CLEAN, "leased", None))
    assert error.code == ErrorCode.REQUEST_CONFLICT
    assert error.details["runs"] == {"leased": 1}
    assert world.rows(outcome.request_id)["claim"] == 1


def test_a_request_that_another_process_works_on_is_busy(world: World) -> None:
    outcome = world.ask(CLEAN, label="busy")
    with RequestLock(world.target_url, "healthcare", outcome.request_id):
        error = error_of(world.run(CLEAN, "busy", None))
    assert error.code == ErrorCode.BUSY
    assert world.request(outcome.request_id).status == "ready"


@pytest.mark.parametrize("label", ["../../etc/x", "a b", "x" * 65, "\u00e4"])
def test_a_partition_key_that_cannot_name_a_request_is_refused(world: World, label: str) -> None:
    error = error_of(world.run(CLEAN, label, {}))
    assert error.code == ErrorCode.REQUEST_INVALID
    assert error.details["allowed"] == "[A-Za-z0-9_-]{1,64}"
    assert world.recorded(CLEAN, label) is None
    assert world.files() == []


def test_an_invoker_of_another_form_is_refused(world: World) -> None:
    error = error_of(world.run(CLEAN, "somebody", {"invoker": "me"}))
    assert error.code == ErrorCode.REQUEST_INVALID
    assert "human:<name>" in error.message


def test_a_scenario_that_breaks_its_rule_ends_rejected_as_expected(world: World) -> None:
    result = world.run("contradictory_eligibility", "negative", {"runs": 2})
    assert result.success
    assert materialised(result) == ["request"]
    assert [event.step_key for event in result.all_events if event.is_step_skipped] == [
        "healthcare__contradictory_eligibility__seeded"
    ]
    broken = [
        evaluation
        for evaluation in result.get_asset_check_evaluations()
        if "expected_violation" in evaluation.metadata
    ]
    assert [evaluation.check_name for evaluation in broken] == [
        "relational__eligibility_status_matches_member"
    ]
    assert broken[0].passed
    assert broken[0].metadata["failed"].value == 2
    assert isinstance(broken[0].metadata["cases"], dg.TableMetadataValue)
    record = world.recorded("contradictory_eligibility", "negative")
    assert record is not None
    assert record.status == "rejected"
    assert record.error is not None
    assert record.error["details"]["expected"] is True
    assert world.rows(record.request_id) == NOTHING
    assert world.actions(record.request_id) == [*TRAIL[:3], "plan_rejected"]
    assert all(name.startswith("quarantine/") for name in world.files())
    assert world.files() != []


@pytest.fixture
def strict_world(world: World) -> World:
    """The world with a scenario that breaks a rule without saying so."""
    text = (shipped_root() / "healthcare" / "contradictory_eligibility.yaml").read_text()
    text = text.replace("contradictory_eligibility", "careless")
    text = "\n".join(line for line in text.splitlines() if not line.startswith("violates"))
    files = [*read_bundle([shipped_root()]), SpecFile("x", "healthcare/careless.yaml", text)]
    registry = Registry.build(files)
    with connect(world.target_url) as conn:
        initialise(conn, registry)
    return dataclasses.replace(world, registry=registry)


def test_data_that_breaks_a_rule_is_never_published(strict_world: World) -> None:
    world = strict_world
    result = world.run("careless", "refused", {"runs": 2})
    assert not result.success
    assert materialised(result) == ["request"]
    evaluations = result.get_asset_check_evaluations()
    assert len(evaluations) == 12, "every check is recorded, also of a refused request"
    assert [e.check_name for e in evaluations if not e.passed] == [
        "relational__eligibility_status_matches_member"
    ]
    error = error_of(result)
    assert error.code == ErrorCode.VALIDATOR_REJECTED
    assert [item["validator"] for item in error.details["failed"]] == [
        "relational.eligibility_status_matches_member"
    ]
    record = world.recorded("careless", "refused")
    assert record is not None
    assert record.status == "rejected"
    assert world.rows(record.request_id) == NOTHING
    assert world.actions(record.request_id) == [*TRAIL[:3], "plan_rejected"]
    (quarantined,) = world.files()
    assert quarantined.startswith(f"quarantine/healthcare/careless/{record.request_id}/")
    rows = pq.read_table(world.store / quarantined)
    assert rows.num_rows == 2
    assert "atdm_reason" in rows.column_names


def test_an_exception_in_generation_leaves_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("a bug in a generator")

    monkeypatch.setattr(generation, "batches", broken)
    result = world.run(CLEAN, "broken", {})
    assert not result.success
    record = world.recorded(CLEAN, "broken")
    assert record is not None
    assert record.status == "rolled_back"
    assert record.error is not None
    assert record.error["message"] == "a bug in a generator"
    assert world.rows(record.request_id) == NOTHING
    assert world.files() == []
    assert world.actions(record.request_id) == [*TRAIL[:3], "seed_failed"]

    monkeypatch.undo()
    assert world.run(CLEAN, "broken", {}).success, "asking again works"
    again = world.recorded(CLEAN, "broken")
    assert again is not None
    assert (again.request_id, again.status) == (record.request_id, "ready")


def test_a_failure_half_way_through_loading_leaves_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(conn: psycopg.Connection[Any], *_: Any) -> None:
        raise RuntimeError("the last statement of the transaction")

    monkeypatch.setattr(load, "_record", broken)
    assert not world.run(CLEAN, "half", {"runs": 10}).success
    record = world.recorded(CLEAN, "half")
    assert record is not None
    assert record.status == "rolled_back"
    assert world.rows(record.request_id) == NOTHING
    assert world.files() == []
    assert world.actions(record.request_id)[-1] == "seed_failed"


def test_a_replay_that_fails_leaves_the_ready_request_as_it_was(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = world.ask(CLEAN, label="kept", runs=2)
    before, files = world.request(outcome.request_id), world.files()
    monkeypatch.setattr(load, "_record", lambda *_: 1 / 0)
    assert not world.run(CLEAN, "kept", None).success
    after = world.request(outcome.request_id)
    assert (after.status, after.content_hash) == ("ready", before.content_hash)
    assert world.rows(outcome.request_id)["claim"] == 2
    assert world.files() == files
    assert read_back_hash(world, outcome.request_id) == before.content_hash
    assert world.actions(outcome.request_id)[-1] == "seed_failed"


def test_a_store_that_refuses_is_reported_with_its_code(world: World, tmp_path: Path) -> None:
    file = tmp_path / "not-a-folder"
    file.write_text("")
    outcome = dataclasses.replace(world, store=file / "store").ask(CLEAN)
    assert outcome.error is not None
    assert outcome.error.code == ErrorCode.STORE_FAILED
    assert outcome.status == "rolled_back"
    assert world.rows(outcome.request_id) == NOTHING
    assert world.actions(outcome.request_id)[-1] == "seed_failed"


def test_a_run_of_the_request_alone_is_rolled_back_when_it_ends(world: World) -> None:
    keys = [dg.AssetKey(["healthcare", CLEAN, "request"])]
    assert world.run(CLEAN, "alone", {}, asset_selection=keys).success
    record = world.recorded(CLEAN, "alone")
    assert record is not None
    assert record.status == "rolled_back"
    assert record.error is not None
    assert "before the request was seeded" in record.error["message"]


def test_seeding_without_the_tables_of_the_same_run_is_refused(world: World) -> None:
    outcome = world.ask(CLEAN, label="partial")
    keys = [dg.AssetKey(["healthcare", CLEAN, "seeded"])]
    error = error_of(world.run(CLEAN, "partial", asset_selection=keys))
    assert error.code == ErrorCode.REQUEST_INVALID
    assert "same run" in error.message
    assert world.request(outcome.request_id).status == "ready"


def test_tables_alone_replay_the_recorded_request(world: World) -> None:
    outcome = world.ask(CLEAN, label="tables")
    keys = [dg.AssetKey(["healthcare", CLEAN, table]) for table in TABLES]
    result = world.run(CLEAN, "tables", asset_selection=keys)
    assert result.success
    assert materialised(result) == list(TABLES)
    assert world.request(outcome.request_id).status == "ready"
    missing = error_of(world.run(CLEAN, "unheard-of", asset_selection=keys))
    assert missing.code == ErrorCode.REQUEST_INVALID


def test_what_a_lease_hands_out_beyond_keys_is_stored_with_the_run(world: World) -> None:
    moving = [
        scenario
        for scenario in world.registry.domains["healthcare"].scenarios.values()
        if any(exposure.row is None for exposure in scenario.exposes) and not scenario.spec.violates
    ]
    for scenario in moving:
        outcome = world.ask(scenario.name, pooled=False, runs=2)
        assert outcome.error is None
        with connect(world.target_url) as conn:
            leases = leasing.lease_request(conn, outcome.request_id, owner="a test")
        names = {exposure.name for exposure in scenario.exposes}
        assert all(set(lease["data"]) == names for lease in leases)


def test_reference_assets_verify_the_rows_in_the_database(world: World) -> None:
    job = world.defs.get_repository_def().get_implicit_global_asset_job_def()
    keys = [dg.AssetKey(["healthcare", "reference", "procedure_code"])]

    def check() -> dg.ExecuteInProcessResult:
        return job.execute_in_process(
            instance=world.instance,
            asset_selection=keys,
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            raise_on_error=False,
        )

    result = check()
    assert result.success
    (found,) = result.asset_materializations_for_node("healthcare__reference__procedure_code")
    expected = world.registry.domains["healthcare"].reference["procedure_code"].num_rows
    assert found.metadata["dagster/row_count"].value == expected
    with connect(world.target_url) as conn:
        conn.execute(
            "UPDATE healthcare.procedure_code SET description = 'changed' WHERE code = '99213'"
        )
    error = error_of(check())
    assert error.code == ErrorCode.TARGET_DRIFT
    assert error.details["changed"] == [["99213"]]
