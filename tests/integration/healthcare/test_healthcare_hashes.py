"""The content of every healthcare scenario, pinned: equal spec and seed, equal data, for ever.

A difference means that seeds which people have written down now give other data. Where that is
meant, raise ``ENGINE_VERSION`` or note the change of the domain, and write the file anew with
``ATDM_UPDATE_GOLDEN=1 python -m pytest tests/integration/healthcare/test_healthcare_hashes.py``.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from atdm_engine import ENGINE_VERSION
from atdm_engine.bundle.registry import Registry
from atdm_engine.generation.batches import batches
from atdm_engine.generation.request import resolve
from atdm_engine.hashing.content import ContentHash, combined
from tests.support.healthcare_requests import AS_OF, RUNS, shipped_registry

GOLDEN = Path(__file__).parents[2] / "golden" / "healthcare_hashes.json"
REQUESTS = ("01KAFM8Q00ABCDEFGHJK000000", "01KB0000000000000000000000")
SEED = 20261120


@pytest.fixture(scope="module")
def registry() -> Registry:
    return shipped_registry()


def hashes_of(
    registry: Registry,
    scenario: str,
    *,
    request_id: str = REQUESTS[0],
    batch_runs: int = RUNS,
    seed: int = SEED,
) -> dict[str, str]:
    """The content hash of each table and, under ``request``, of all together."""
    spec = resolve(
        *registry.find(scenario), {}, runs=RUNS, seed=seed, as_of=AS_OF, request_id=request_id
    )
    accumulators = {
        table: ContentHash(spec.domain, table, request_id) for table in spec.scenario.tables
    }
    for batch in batches(spec, batch_runs):
        for table, rows in batch.items():
            accumulators[table].add(rows)
    hashes = {table: found.hexdigest() for table, found in sorted(accumulators.items())}
    return {**hashes, "request": combined(hashes)}


def golden() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(GOLDEN.read_text(encoding="utf-8"))
    return found


def test_every_scenario_has_its_frozen_content(registry: Registry) -> None:
    scenarios = sorted(registry.domains["healthcare"].scenarios)
    found = {
        "engine_version": ENGINE_VERSION,
        "seed": SEED,
        "as_of": AS_OF.isoformat(),
        "runs": RUNS,
        "scenarios": {name: hashes_of(registry, f"healthcare/{name}") for name in scenarios},
    }
    if os.environ.get("ATDM_UPDATE_GOLDEN") == "1":
        GOLDEN.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    assert found == golden()


def test_no_two_scenarios_or_tables_share_a_hash() -> None:
    everything = [digest for hashes in golden()["scenarios"].values() for digest in hashes.values()]
    assert len(everything) > 60
    assert all(len(digest) == 32 for digest in everything)
    assert len(set(everything)) == len(everything)


@pytest.mark.parametrize("scenario", ["claim_denial_active_member", "member_with_dependents"])
def test_neither_ids_nor_batches_change_the_content_but_the_seed_does(
    registry: Registry, scenario: str
) -> None:
    expected = hashes_of(registry, scenario)
    assert hashes_of(registry, scenario, request_id=REQUESTS[1]) == expected
    assert hashes_of(registry, scenario, batch_runs=7) == expected
    other = hashes_of(registry, scenario, seed=SEED + 1)
    # Without constraints a headline claim differs by its time alone, and that is enough.
    assert all(other[table] != expected[table] for table in expected)
