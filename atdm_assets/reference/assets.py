"""Reference tables as assets, upstream of every table that refers to them."""

# No postponed annotations here: Dagster compares those of steps as classes, not as text.

from typing import Any

import dagster as dg

from atdm_assets import metadata, names
from atdm_assets.resources import TargetResource
from atdm_engine.model import Domain
from atdm_services.requests.reference import verify_reference


def reference_assets(domain: Domain) -> list[dg.AssetsDefinition]:
    """An asset for each reference table: materialising it compares the database with its file."""
    return [_reference_asset(domain, table) for table in domain.reference]


def _reference_asset(domain: Domain, table: str) -> dg.AssetsDefinition:
    @dg.asset(
        key=names.reference_key(domain.name, table),
        group_name=f"{domain.name}__{names.REFERENCE}",
        description=f"{domain.tables[table].description}\n\nReference rows; materialising verifies "
        "that the database holds exactly the rows of the file.",
        kinds={"postgres", "csv"},
        owners=domain.spec.owners,
        metadata=metadata.reference_definition_metadata(domain, table),
    )
    def reference(target: TargetResource) -> dg.MaterializeResult[Any]:
        with metadata.reported_failures(), target.connection() as connection:
            result = verify_reference(connection, domain, table)
        return dg.MaterializeResult(
            metadata=metadata.reference_metadata(result),
            data_version=dg.DataVersion(result.content_hash),
        )

    return reference
