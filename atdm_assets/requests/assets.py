"""The asset graph of one scenario: request, tables with their checks, seeded."""

# No postponed annotations here: Dagster compares those of steps as classes, not as text.

from collections.abc import Iterator, Mapping
from typing import Any, TypedDict

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from atdm_assets import metadata, names
from atdm_assets.requests.resource import RequestsResource
from atdm_assets.requests.run_config import request_in, scenario_schema
from atdm_engine.bundle.registry import Registry
from atdm_engine.checks.results import CheckId, check_ids
from atdm_engine.model import Domain, Scenario


def scenario_assets(registry: Registry, scenario: Scenario) -> list[dg.AssetsDefinition]:
    """The three steps of a scenario (docs/architecture.md), as assets."""
    return [
        _request_asset(registry, scenario),
        _table_assets(registry, scenario),
        _seeded_asset(registry, scenario),
    ]


def scenario_job(scenario: Scenario) -> UnresolvedAssetJobDefinition:
    """The job ``<domain>__<scenario>``: everything of one scenario, one request a partition."""
    parts = [names.REQUEST, *scenario.tables, names.SEEDED]
    keys = [dg.AssetKey([scenario.domain, scenario.name, part]) for part in parts]
    return dg.define_asset_job(
        names.job_name(scenario.domain, scenario.name),
        selection=dg.AssetSelection.assets(*keys),
        description=f"{scenario.spec.description}\n\nOne partition is one request.".strip(),
        # The place of the form's fields, so that the launchpad opens with it.
        config={
            "ops": {
                names.step_name(scenario.domain, scenario.name, names.REQUEST): {
                    "config": {"constraints": {}}
                }
            }
        },
        executor_def=dg.in_process_executor,
        metadata=metadata.scenario_metadata(scenario),
    )


class _Common(TypedDict):
    """The options that all assets of a scenario share."""

    partitions_def: dg.PartitionsDefinition[str]
    group_name: str
    code_version: str
    owners: list[str]
    tags: dict[str, str]


def _common(registry: Registry, scenario: Scenario) -> _Common:
    domain = registry.domains[scenario.domain]
    return {
        "partitions_def": names.partitions(domain.name, scenario.name),
        "group_name": names.group_name(domain.name, scenario.name, registry.default_domain),
        "code_version": scenario.version,
        "owners": list(domain.spec.owners),
        "tags": {names.safe_tag(tag): "" for tag in scenario.spec.tags},
    }


def _request_asset(registry: Registry, scenario: Scenario) -> dg.AssetsDefinition:
    domain = registry.domains[scenario.domain]

    @dg.asset(
        key=names.request_key(domain.name, scenario.name),
        description=f"{scenario.spec.description}\n\nThe request: its constraints, seed and clock, "
        "resolved and recorded before anything is made.".strip(),
        metadata=metadata.scenario_metadata(scenario),
        kinds={"postgres"},
        config_schema=scenario_schema(scenario),
        **_common(registry, scenario),
    )
    def request(
        context: dg.AssetExecutionContext, requests: RequestsResource
    ) -> dg.MaterializeResult[Any]:
        config: Mapping[str, Any] = context.op_execution_context.op_config or {}
        with metadata.reported_failures():
            execution = requests.execution(registry, scenario, context)
            execution.plan(request_in(config, context.run.tags, scenario.key))
            # A run that a person started has none of these tags yet.
            tags = names.caller_tags(execution.invoker, execution.request.source)
            tags[names.REQUEST_ID_TAG] = execution.spec.request_id
            context.instance.add_run_tags(context.run.run_id, tags)
        return dg.MaterializeResult(
            metadata=metadata.request_metadata(
                execution.spec, execution.record.label, replayed=execution.replayed
            )
        )

    return request


def _check_spec(domain: Domain, scenario: Scenario, check: CheckId) -> dg.AssetCheckSpec:
    return dg.AssetCheckSpec(
        name=check.name,
        asset=names.table_key(domain.name, scenario.name, check.table),
        description=check.description,
        blocking=True,
        metadata=metadata.check_metadata(scenario, check),
    )


def _table_specs(registry: Registry, scenario: Scenario) -> Iterator[dg.AssetSpec]:
    domain = registry.domains[scenario.domain]
    for table in scenario.tables:
        spec = domain.tables[table]
        parents = dict.fromkeys(spec.foreign_keys.values())
        deps = [names.request_key(domain.name, scenario.name)]
        for parent in parents:
            if parent in scenario.tables and parent != table:
                deps.append(names.table_key(domain.name, scenario.name, parent))
            if parent in domain.reference:
                deps.append(names.reference_key(domain.name, parent))
        yield dg.AssetSpec(
            names.table_key(domain.name, scenario.name, table),
            deps=deps,
            description=spec.description,
            metadata=metadata.table_definition_metadata(domain, scenario, table),
            kinds={"parquet", "pandera", "duckdb"},
            # A table that did not pass every check is not materialised.
            skippable=True,
            **_common(registry, scenario),
        )


def _table_assets(registry: Registry, scenario: Scenario) -> dg.AssetsDefinition:
    domain = registry.domains[scenario.domain]
    checks = check_ids(domain, scenario)

    @dg.multi_asset(
        name=names.step_name(domain.name, scenario.name, "tables"),
        specs=list(_table_specs(registry, scenario)),
        check_specs=[_check_spec(domain, scenario, check) for check in checks],
    )
    def tables(
        context: dg.AssetExecutionContext, requests: RequestsResource
    ) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult[Any]]:
        with metadata.reported_failures():
            checked = requests.execution(registry, scenario, context).generate()
        expected = checked.verdict.expected_violation
        about = {"request_id": checked.spec.request_id}
        for outcome in checked.outcomes:
            key = names.table_key(domain.name, scenario.name, outcome.check.table)
            yield metadata.check_result(key, outcome, about, expected=expected)
        if expected:
            context.log.info(
                f"Request {checked.spec.request_id} is rejected as expected: the data breaks "
                f"exactly {', '.join(scenario.spec.violates)}. Nothing is loaded."
            )
            return
        if not checked.verdict.accepted:
            raise metadata.failure(checked.rejection())
        for table, staged in checked.tables.items():
            yield dg.MaterializeResult(
                asset_key=names.table_key(domain.name, scenario.name, table),
                metadata=metadata.table_metadata(checked, table),
                data_version=dg.DataVersion(staged.content_hash),
            )

    return tables


def _seeded_asset(registry: Registry, scenario: Scenario) -> dg.AssetsDefinition:
    domain = registry.domains[scenario.domain]

    @dg.asset(
        key=names.seeded_key(domain.name, scenario.name),
        deps=[names.table_key(domain.name, scenario.name, table) for table in scenario.tables],
        description="The rows in PostgreSQL and the test runs ready to lease, loaded and recorded "
        "in one transaction.",
        metadata=metadata.scenario_metadata(scenario),
        kinds={"postgres"},
        **_common(registry, scenario),
    )
    def seeded(
        context: dg.AssetExecutionContext, requests: RequestsResource
    ) -> dg.MaterializeResult[Any]:
        with metadata.reported_failures():
            result = requests.execution(registry, scenario, context).load()
        return dg.MaterializeResult(
            metadata=metadata.seeded_metadata(result),
            data_version=dg.DataVersion(result.content_hash),
        )

    return seeded
