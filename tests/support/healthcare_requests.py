"""Healthcare requests for tests: resolved, generated and judged without a database."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from atdm_engine.bundle.registry import Registry
from atdm_engine.checks.results import CheckOutcome
from atdm_engine.checks.validator import Validator
from atdm_engine.generation.request import RequestSpec, resolve
from atdm_resources.store.bundle import read_bundle, shipped_root

AS_OF = datetime(2026, 11, 20, 9, 30, tzinfo=UTC)
REQUEST = "01KAFM8Q00ABCDEFGHJK000000"
RUNS = 500
STATUS_RULE = "relational.eligibility_status_matches_member"
CLAIM_RULE = "relational.claim_references_existing_member"
DENIAL_RULE = "domain.denial_requires_invalid_code"
WINDOW_RULE = "temporal.eligibility_window_contains_claim"
SCENARIOS = sorted(
    path.stem
    for path in (shipped_root() / "healthcare").glob("*.yaml")
    if path.name != "domain.yaml"
)
Rows = dict[str, list[dict[str, Any]]]


def shipped_registry() -> Registry:
    """The registry of the shipped files."""
    return Registry.build(read_bundle([shipped_root()]))


def plan_request(
    registry: Registry,
    scenario: str,
    seed: int = 1,
    runs: int = RUNS,
    as_of: datetime = AS_OF,
    **constraints: Any,
) -> RequestSpec:
    return resolve(
        *registry.find(f"healthcare/{scenario}"),
        constraints,
        runs=runs,
        seed=seed,
        as_of=as_of,
        request_id=REQUEST,
    )


def rows_of(batch: Mapping[str, pa.Table]) -> Rows:
    return {name: table.to_pylist() for name, table in batch.items()}


def outcomes_of(spec: RequestSpec, batch: dict[str, pa.Table]) -> list[CheckOutcome]:
    validator = Validator(spec.domain, spec.scenario)
    validator.check(batch)
    return validator.outcomes()


def failures(outcomes: list[CheckOutcome]) -> list[str]:
    return [outcome.check.rule or outcome.check.name for outcome in outcomes if not outcome.passed]
