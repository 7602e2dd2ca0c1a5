"""The tables of one domain while its files are checked against each other."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import duckdb

from atdm_engine.arrow import duck
from atdm_engine.bundle.spec_file import ParsedFile
from atdm_engine.spec.table import TableSpec


@dataclass
class DomainTables:
    """The tables of one domain while it is being checked.

    ``known`` are the names of all table files, also of those that could not be read: what refers to
    a broken file is not reported a second time. ``subjects`` are the constraints that a case
    generator may name, with their allowed values as text (empty: any). ``rule_files`` are the names
    of all rule files, broken ones included.
    """

    tables: Mapping[str, ParsedFile[TableSpec]]
    known: Collection[str]
    subjects: Mapping[str, frozenset[str]] = field(default_factory=dict)
    vocabularies: Collection[tuple[str, str]] = ()
    locale: str = "en_US"
    rule_files: Collection[str] = ()

    def spec(self, table: str) -> TableSpec | None:
        loaded = self.tables.get(table)
        return loaded.model if loaded else None


def empty_connection(tables: Mapping[str, ParsedFile[TableSpec]]) -> duckdb.DuckDBPyConnection:
    """A guarded connection with every table of a domain, empty, to bind SQL against."""
    connection = duck.connect()
    for name, loaded in tables.items():
        try:
            connection.register(name, loaded.model.arrow_schema.empty_table())
        except (ValueError, duckdb.Error):
            continue  # A type or name that cannot be is reported by check_table.
    return connection
