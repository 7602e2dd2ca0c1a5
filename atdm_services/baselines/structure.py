"""Whether live tables have the structure that a baseline was made from."""

from __future__ import annotations

from collections.abc import Iterator

from atdm_resources.postgres.introspect import LiveTable
from atdm_services.baselines.manifest import Manifest


def differences(manifest: Manifest, live: dict[str, LiveTable]) -> Iterator[str]:
    """Every difference between the live tables and those of the baseline, in words.

    Live tables that a generated baseline does not have are no difference.
    """
    captured = manifest.kind == "captured"
    for table in manifest.tables:
        found = live.get(table.name)
        if found is None:
            yield f"{table.name}: the table is missing"
            continue
        columns = {column.name: column for column in found.columns}
        for column in table.columns:
            there = columns.pop(column.name, None)
            if there is None:
                yield f"{table.name}.{column.name}: the column is missing ({column.type})"
                continue
            for noun, was, now in (
                ("type", column.type, there.type),
                ("collation", column.collation, there.collation),
                ("identity", column.identity or "none", there.identity or "none"),
                ("generated", column.generated or "no", there.generated or "no"),
            ):
                if was != now and (captured or noun != "collation"):
                    yield f"{table.name}.{column.name}: {noun} is {now}, in the baseline {was}"
            if captured and column.nullable and not there.nullable:
                yield f"{table.name}.{column.name}: is NOT NULL, in the baseline it is not"
            if column.generated and column.expression != there.expression:
                yield (
                    f"{table.name}.{column.name}: is computed as {there.expression}, in the "
                    f"baseline as {column.expression}"
                )
        for name, column in columns.items():
            yield f"{table.name}.{name}: the baseline has no such column ({column.type})"
    if captured:
        known = {table.name for table in manifest.tables}
        for name in live.keys() - known:
            yield f"{name}: the baseline has no such table"
