"""Resets for operators: jobs ``reset_run`` and ``reset_all``, and the check ``zero_residue``.

An operator gives a reason and a confirmation instead of a token, which never enters Dagster.
"""

# No postponed annotations here: Dagster reads those of configs and steps as classes.

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import dagster as dg
from pydantic import Field

from atdm_assets import metadata, names
from atdm_assets.resources import TargetResource
from atdm_engine.bundle.registry import Registry
from atdm_engine.errors import AtdmError, ErrorCode, unknown_domain
from atdm_resources.catalog import reclaim, requests, residue, runs
from atdm_resources.catalog.residue import Residue
from atdm_resources.postgres.target import ensure_disposable
from atdm_resources.settings import Settings

CHECK = "zero_residue"
_CHECK_TEXT = (
    "No row in any table bears the id of a test run that is over, or refers to a key that is gone."
)
_CONFIRM = "Type yes: the rows are deleted for good."

Events = Iterator[dg.AssetObservation | dg.AssetCheckEvaluation | dg.Output[None]]


class ResetRunConfig(dg.Config):
    """Config of a reset of one test run."""

    run_id: str = Field(description="The id of the test run.")
    reason: str = Field(description="Why, for the audit trail.", min_length=1)
    confirm: Literal["yes"] = Field(description=_CONFIRM)
    invoker: str | None = Field(
        None, description="Who does it: human:NAME or agent:ID. Default: ATDM_INVOKER."
    )


class ResetAllConfig(dg.Config):
    """Config of a reset of every test run of a domain."""

    domain: str = Field(description="The domain.")
    reason: str = Field(description="Why, for the audit trail.", min_length=1)
    confirm: Literal["yes"] = Field(description=_CONFIRM)
    revoke_leases: bool = Field(
        False, description="Also leased runs; else the reset is refused, naming the owners."
    )
    invoker: str | None = Field(
        None, description="Who does it: human:NAME or agent:ID. Default: ATDM_INVOKER."
    )


def test_runs_asset(domain: str) -> dg.AssetSpec:
    """The rows of all test runs of a domain, as an asset with observations of resets and leases."""
    return dg.AssetSpec(
        names.test_runs_key(domain),
        description="The rows of test runs that are in the target now. Leases and resets are "
        "observations of it.",
        group_name=f"{domain}__{names.TEST_RUNS}",
        kinds={"postgres"},
    )


def zero_residue_check(domain: str) -> dg.AssetChecksDefinition:
    """The check on demand: reads every table of the domain."""

    @dg.asset_check(
        asset=names.test_runs_key(domain), name=CHECK, description=_CHECK_TEXT, blocking=False
    )
    def zero_residue(target: TargetResource) -> dg.AssetCheckResult:
        with metadata.reported_failures(), target.connection() as conn:
            ensure_disposable(conn)
            found = residue.residue_of_domain(conn, domain)
        return dg.AssetCheckResult(passed=found.rows == 0, metadata=_residue_metadata(found))

    return zero_residue


def reset_run_job() -> dg.JobDefinition:
    """The job ``reset_run``."""

    @dg.op(
        name=f"{names.RESET_RUN_JOB}_rows",
        description="Delete a test run's rows and all that refers to them; show what is left.",
        out=dg.Out(dg.Nothing),
    )
    def reset_rows(
        context: dg.OpExecutionContext, config: ResetRunConfig, target: TargetResource
    ) -> Events:
        with metadata.reported_failures(), target.connection() as conn:
            ensure_disposable(conn)
            row = runs.run(conn, config.run_id)
            request = requests.get_request(conn, row["request_id"]) if row else None
            keys = residue.keys_of_run(conn, request.domain, config.run_id) if request else {}
            done = reclaim.reset_run(
                conn,
                config.run_id,
                reason=config.reason,
                invoker=_invoker(context, config.invoker),
                source="dagster",
            )
            found = residue.residue_of_run(conn, done["domain"], config.run_id, keys)
        assert request is not None
        context.instance.add_run_tags(context.run_id, {names.REQUEST_ID_TAG: request.request_id})
        context.log.info(f"Test run {config.run_id} is {done['status']}.")
        yield dg.AssetObservation(
            names.seeded_key(request.domain, request.scenario_id),
            partition=request.label,
            metadata={
                "test_run_id": config.run_id,
                "status": done["status"],
                "reason": config.reason,
                **_counts(done["deleted"], done["adopted"]),
            },
        )
        yield from _judged(done["domain"], found)

    @dg.job(
        name=names.RESET_RUN_JOB,
        description="Delete the rows of one test run, without its token: for operators.",
        executor_def=dg.in_process_executor,
    )
    def job() -> None:
        reset_rows()

    return job


def reset_all_job(registry: Registry) -> dg.JobDefinition:
    """The job ``reset_all``."""

    @dg.op(
        name=f"{names.RESET_ALL_JOB}_rows",
        description="Delete the rows of every test run of a domain; show what is left.",
        out=dg.Out(dg.Nothing),
    )
    def reset_all_rows(
        context: dg.OpExecutionContext, config: ResetAllConfig, target: TargetResource
    ) -> Events:
        with metadata.reported_failures(), target.connection() as conn:
            ensure_disposable(conn)
            _require_domain(registry, config.domain)
            done = reclaim.reset_all(
                conn,
                config.domain,
                reason=config.reason,
                revoke_leases=config.revoke_leases,
                invoker=_invoker(context, config.invoker),
                source="dagster",
            )
            found = residue.residue_of_domain(conn, config.domain)
        context.log.info(f"{done['cleared_record_count']} test runs are cleaned.")
        yield dg.AssetObservation(
            names.test_runs_key(config.domain),
            metadata={
                "test_runs": done["cleared_record_count"],
                "reason": config.reason,
                "revoked": dg.MetadataValue.json(done["revoked"]),
                **_counts(done["deleted"], done["adopted"]),
            },
        )
        yield from _judged(config.domain, found)

    @dg.job(
        name=names.RESET_ALL_JOB,
        description="Delete the rows of every test run of a domain; shared rows stay.",
        executor_def=dg.in_process_executor,
    )
    def job() -> None:
        reset_all_rows()

    return job


def _require_domain(registry: Registry, domain: str) -> None:
    if domain not in registry.domains:
        raise unknown_domain(domain, registry.domains)


def _invoker(context: dg.OpExecutionContext, given: str | None) -> str:
    return given or context.run.tags.get(names.INVOKER_TAG) or Settings.from_environment().invoker


def _judged(domain: str, found: Residue) -> Events:
    """The check's evaluation, then the end of the step: a failure if rows are left."""
    yield dg.AssetCheckEvaluation(
        asset_key=names.test_runs_key(domain),
        check_name=CHECK,
        passed=found.rows == 0,
        metadata=_residue_metadata(found),
    )
    if found.rows:
        left = {**found.bearing, **found.referring}
        raise metadata.failure(
            AtdmError(
                ErrorCode.RESET_FAILED,
                f"{found.rows} rows are left: "
                + ", ".join(f"{count} in {table}" for table, count in left.items()),
                {"bearing": found.bearing, "referring": found.referring},
            )
        )
    yield dg.Output(None)


def _residue_metadata(found: Residue) -> dict[str, Any]:
    return {
        "rows": found.rows,
        "tables": found.tables,
        "bearing": dg.MetadataValue.json(found.bearing),
        "referring": dg.MetadataValue.json(found.referring),
    }


def _counts(deleted: Mapping[str, int], adopted: Mapping[str, int]) -> dict[str, Any]:
    """Deleted rows by table, and in all."""
    return {
        "rows": sum(deleted.values()),
        **{f"deleted/{table}": count for table, count in sorted(deleted.items())},
        "adopted": dg.MetadataValue.json(dict(adopted)),
    }
