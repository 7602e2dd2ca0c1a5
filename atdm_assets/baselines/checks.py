"""Checks of baselines: intact, the same as the target, the same after two restores."""

# No postponed annotations here: Dagster reads those of configs and steps as classes.

from collections.abc import Callable

import dagster as dg
from pydantic import Field

from atdm_assets import names
from atdm_assets.actors import run_actor
from atdm_assets.resources import StoreResource, TargetResource
from atdm_engine.bundle.registry import Registry
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.store.files import Store
from atdm_services.baselines import diff, listing, manifest
from atdm_services.clones import templates

INTACT = "intact"
MATCHES_LIVE = "matches_live"
IDEMPOTENT_SEED = "idempotent_seed"
_PARTITION_TAG = "dagster/partition"


class CheckConfig(dg.Config):
    """Which baseline a check looks at."""

    baseline_id: str | None = Field(
        None, description="Default: the partition of the run, else the latest."
    )


def baseline_checks(registry: Registry, domain: str) -> list[dg.AssetChecksDefinition]:
    """The checks of a domain's baselines; only INTACT runs with a capture."""
    key = names.baseline_key(domain)

    @dg.asset_check(
        asset=key,
        name=INTACT,
        description="Every file of the baseline is as it was written, by size and checksum.",
    )
    def intact(
        context: dg.AssetCheckExecutionContext, config: CheckConfig, store: StoreResource
    ) -> dg.AssetCheckResult:
        def judge() -> dg.AssetCheckResult:
            opened = store.store()
            name = _baseline_of(context.run, config, opened, domain)
            problems = listing.verify(opened, domain, name)
            return dg.AssetCheckResult(
                passed=not problems,
                metadata={"baseline_id": name, "problems": dg.MetadataValue.json(problems)},
            )

        return _judged(judge)

    @dg.asset_check(
        asset=key,
        name=MATCHES_LIVE,
        description="The database holds exactly the rows of the baseline, keys included.",
    )
    def matches_live(
        context: dg.AssetCheckExecutionContext,
        config: CheckConfig,
        target: TargetResource,
        store: StoreResource,
    ) -> dg.AssetCheckResult:
        def judge() -> dg.AssetCheckResult:
            opened = store.store()
            name = _baseline_of(context.run, config, opened, domain)
            found = diff.compare(target.url(), opened, domain, name)
            different = [table.as_json() for table in found if not table.same]
            return dg.AssetCheckResult(
                passed=not different,
                severity=dg.AssetCheckSeverity.WARN,
                metadata={
                    "baseline_id": name,
                    "tables": len(found),
                    "differences": dg.MetadataValue.json(different),
                },
            )

        return _judged(judge)

    @dg.asset_check(
        asset=key,
        name=IDEMPOTENT_SEED,
        description="Restoring the baseline twice gives the same state. Done in a database of its "
        "own, which is dropped afterwards: the target is not touched.",
    )
    def idempotent_seed(
        context: dg.AssetCheckExecutionContext,
        config: CheckConfig,
        target: TargetResource,
        store: StoreResource,
    ) -> dg.AssetCheckResult:
        def judge() -> dg.AssetCheckResult:
            opened = store.store()
            name = _baseline_of(context.run, config, opened, domain)
            expected = manifest.read_manifest(opened, domain, name).content_hash
            actor = run_actor(context.run, None, f"check {IDEMPOTENT_SEED}")
            hashes = templates.hashes_of_two_restores(
                target.url(), opened, registry, domain, name, actor=actor
            )
            return dg.AssetCheckResult(
                passed=set(hashes) == {expected},
                metadata={
                    "baseline_id": name,
                    "state_hash": expected,
                    "after_each_restore": dg.MetadataValue.json(hashes),
                },
            )

        return _judged(judge)

    return [intact, matches_live, idempotent_seed]


def _judged(judge: Callable[[], dg.AssetCheckResult]) -> dg.AssetCheckResult:
    """A check's result; an exception becomes a failed result that names it."""
    try:
        return judge()
    except Exception as error:
        code = str(error.code) if isinstance(error, AtdmError) else type(error).__name__
        return dg.AssetCheckResult(passed=False, metadata={"error": str(error), "error_code": code})


def _baseline_of(run: dg.DagsterRun, config: CheckConfig, store: Store, domain: str) -> str:
    """The id that the config or the run's partition names, else the latest."""
    named = config.baseline_id or run.tags.get(_PARTITION_TAG)
    if named:
        return manifest.check_id(named)
    found = listing.latest(store, domain)
    if found is None:
        raise AtdmError(
            ErrorCode.NO_BASELINE, f"domain {domain} has no baseline", {"domain": domain}
        )
    return found.baseline_id
