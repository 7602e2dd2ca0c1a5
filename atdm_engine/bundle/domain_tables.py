"""The tables of one domain while its files are checked, and their order of insertion."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter

import duckdb

from atdm_engine.arrow import duck
from atdm_engine.bundle.spec_file import ParsedFile
from atdm_engine.errors import Problem
from atdm_engine.spec.table import TableSpec


@dataclass
class DomainTables:
    """The tables of one domain while its files are checked.

    ``known`` are the names of all table files, broken ones included, so that a reference to a
    broken file is not reported too. ``subjects`` are the constraints that a case generator may
    name, with their allowed values as text (empty: any). ``rule_files`` are the names of all rule
    files, broken ones included.
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
            continue  # check_table reports types and names that do not exist.
    return connection


def insert_order(domain: DomainTables) -> tuple[list[str], list[Problem]]:
    """The tables in an order in which parents come before their children, otherwise by name.

    A circle of references between tables is a problem; a reference to the same table is not.
    """
    needs: dict[str, list[str]] = {
        name: sorted((set(loaded.model.foreign_keys.values()) & domain.tables.keys()) - {name})
        for name, loaded in sorted(domain.tables.items())
    }
    problems = []
    for circle in circles(needs):
        loaded = domain.tables[circle[0]]
        following = circle[1] if len(circle) > 1 else circle[0]
        column = next(c for c, s in loaded.model.columns.items() if s.references == following)
        problems.append(
            loaded.problem(
                ("columns", column, "references"),
                "a circle: " + " -> ".join([*circle, circle[0]]),
                "references without a circle, so that there is an order of insertion",
            )
        )
    if problems:
        return list(needs), problems
    sorter = TopologicalSorter(needs)
    sorter.prepare()
    order: list[str] = []
    ready: list[str] = []
    while sorter.is_active():
        for name in sorter.get_ready():
            heapq.heappush(ready, name)
        order.append(heapq.heappop(ready))
        sorter.done(order[-1])
    return order, problems


def circles(needs: Mapping[str, Collection[str]]) -> list[list[str]]:
    """Circles of a graph, each as the names along it. Without their first edges none is left."""
    remaining = {name: set(others) for name, others in needs.items()}
    found: list[list[str]] = []
    while True:
        try:
            TopologicalSorter(remaining).prepare()
        except CycleError as error:
            # graphlib walks from a predecessor to what needs it and repeats the first at the end.
            circle = list(reversed(error.args[1]))[:-1]
            start = circle.index(min(circle))
            circle = circle[start:] + circle[:start]
            found.append(circle)
            remaining[circle[0]].discard(circle[1 % len(circle)])
            continue
        return found
