"""A judge of its own: looks at target, store and server with no function of ATDM."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
from psycopg import sql

Fingerprint = dict[str, tuple[int, str]]
"""By table: how many rows, and a hash of all of them."""


@dataclass
class Reader:
    """Reads one target and its store. ``own_server``: every database on the server is the target's
    business, so one that nobody knows is a stray."""

    url: str
    store: Path
    own_server: bool = True
    known_databases: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.conn = psycopg.connect(self.url, autocommit=True, application_name="torture reader")
        if self.own_server:
            self.known_databases |= self._databases()

    def close(self) -> None:
        self.conn.close()

    def quiet(self, seconds: float = 60) -> None:
        """Wait until the server has noticed that whoever was killed is gone."""
        deadline = time.monotonic() + seconds
        while self.number(
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
            " AND datname = current_database() AND application_name NOT LIKE 'torture%'"
        ):
            if time.monotonic() > deadline:
                raise AssertionError("sessions of a killed process are still there")
            time.sleep(0.01)

    def number(self, query: str, *values: object) -> int:
        row = self.conn.execute(query.encode(), values or None).fetchone()
        return int(row[0]) if row else 0

    # What the target holds.

    def tables(self) -> list[tuple[str, str]]:
        """Every ordinary table of every domain."""
        return self.conn.execute(
            "SELECT n.nspname::text, c.relname::text FROM pg_class AS c"
            " JOIN pg_namespace AS n ON n.oid = c.relnamespace"
            " JOIN atdm.domain AS d ON d.domain = n.nspname WHERE c.relkind = 'r' ORDER BY 1, 2"
        ).fetchall()

    def fingerprint(self, owned: bool | None = None) -> Fingerprint:
        """All rows; with ``owned`` only those that bear a run's id, or only those that do not."""
        which = {None: "", True: " WHERE test_run_id IS NOT NULL", False: " WHERE test_run_id"
                 " IS NULL"}[owned]  # fmt: skip
        found: Fingerprint = {}
        for schema, table in self.tables():
            query = sql.SQL(
                "SELECT count(*), md5(coalesce(string_agg(h, '' ORDER BY h), '')) FROM"
                " (SELECT md5(t::text) AS h FROM {} AS t{}) AS hashed"
            ).format(sql.Identifier(schema, table), sql.SQL(which))
            row = self.conn.execute(query).fetchone()
            assert row is not None
            found[f"{schema}.{table}"] = (row[0], row[1])
        return found

    def definitions(self) -> str:
        """One hash over constraints, indexes, triggers and columns of the domains' tables."""
        rows = self.conn.execute(
            "WITH t AS (SELECT c.oid FROM pg_class AS c JOIN pg_namespace AS n"
            "  ON n.oid = c.relnamespace JOIN atdm.domain AS d ON d.domain = n.nspname)"
            " SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid), convalidated"
            " FROM pg_constraint WHERE conrelid IN (SELECT oid FROM t)"
            " UNION ALL SELECT indrelid::regclass::text, indexrelid::regclass::text,"
            "  pg_get_indexdef(indexrelid), indisvalid FROM pg_index"
            "  WHERE indrelid IN (SELECT oid FROM t)"
            " UNION ALL SELECT tgrelid::regclass::text, CASE WHEN tgisinternal THEN '' ELSE tgname"
            "  END, tgtype::text || tgenabled::text, true FROM pg_trigger"
            "  WHERE tgrelid IN (SELECT oid FROM t) ORDER BY 1, 2, 3"
        ).fetchall()
        return hashlib.sha256(repr(rows).encode()).hexdigest()

    # What must hold.

    def torn(self) -> Iterator[str]:
        """What may not be at any moment, also right after a kill."""
        yield from self._rows_and_runs()
        yield from self._references()
        yield from self._baselines()

    def left(self) -> Iterator[str]:
        """What may not be once the next command has run."""
        yield from self.torn()
        yield from self._catalog()
        yield from self._audit()
        yield from self._stray_files()
        yield from self._stray_databases()
        yield from self._sessions()

    def _rows_and_runs(self) -> Iterator[str]:
        for schema, table in self.tables():
            relation = sql.Identifier(schema, table)
            row = self.conn.execute(
                sql.SQL(
                    "SELECT count(*) FROM {} AS t WHERE test_run_id IS NOT NULL AND NOT EXISTS"
                    " (SELECT FROM atdm.test_run AS r WHERE r.test_run_id = t.test_run_id"
                    " AND r.status IN ('ready', 'leased'))"
                ).format(relation)
            ).fetchone()
            if row and row[0]:
                yield f"{schema}.{table}: {row[0]} orphan rows"
        for request, name, rows, runs, alive, domain in self.conn.execute(
            "SELECT q.request_id, t.key, (t.value ->> 'rows')::bigint, q.runs,"
            " (SELECT count(*) FROM atdm.test_run AS r WHERE r.request_id = q.request_id"
            "  AND r.status IN ('ready', 'leased')), q.domain"
            " FROM atdm.request AS q, jsonb_each(q.tables) AS t WHERE q.status = 'ready'"
        ).fetchall():
            query = sql.SQL(
                "SELECT count(*) FROM {} WHERE left(test_run_id, 20) = left(%s, 20)"
            ).format(sql.Identifier(domain, name))
            found = self.conn.execute(query, (request,)).fetchone()
            assert found is not None
            if rows % runs == 0 and found[0] != rows // runs * alive:
                yield (
                    f"{domain}.{name}: {found[0]} rows of request {request},"
                    f" {alive} of its {runs} runs are alive and it made {rows}"
                )
        strange = self.number(
            "SELECT count(*) FROM atdm.test_run AS r JOIN atdm.request AS q USING (request_id)"
            " WHERE r.status IN ('ready', 'leased') AND q.status <> 'ready'"
        )
        if strange:
            yield f"{strange} runs are alive in requests that are not"

    def _references(self) -> Iterator[str]:
        """Foreign keys are validated, and hold when somebody else looks."""
        for name, child, columns, parent, keys, valid in self.conn.execute(
            "SELECT k.conname::text, k.conrelid::regclass::text,"
            " (SELECT array_agg(quote_ident(a.attname) ORDER BY u.n) FROM unnest(k.conkey)"
            "   WITH ORDINALITY AS u (c, n) JOIN pg_attribute AS a ON a.attrelid = k.conrelid"
            "   AND a.attnum = u.c), k.confrelid::regclass::text,"
            " (SELECT array_agg(quote_ident(a.attname) ORDER BY u.n) FROM unnest(k.confkey)"
            "   WITH ORDINALITY AS u (c, n) JOIN pg_attribute AS a ON a.attrelid = k.confrelid"
            "   AND a.attnum = u.c), k.convalidated"
            " FROM pg_constraint AS k JOIN pg_namespace AS n ON n.oid = k.connamespace"
            " JOIN atdm.domain AS d ON d.domain = n.nspname WHERE k.contype = 'f'"
        ).fetchall():
            if not valid:
                yield f"{child}: {name} is not validated"
            on = " AND ".join(f"p.{k} = c.{c}" for c, k in zip(columns, keys, strict=True))
            given = " AND ".join(f"c.{column} IS NOT NULL" for column in columns)
            dangling = self.number(
                f"SELECT count(*) FROM {child} AS c WHERE {given} AND NOT EXISTS"
                f" (SELECT FROM {parent} AS p WHERE {on})"
            )
            if dangling:
                yield f"{child}: {dangling} rows refer to nothing ({name})"

    def references_of(self, domain: str) -> list[tuple[str, str, str, str]]:
        """Foreign keys of one column: child, column, parent, key."""
        return self.conn.execute(
            "SELECT c.relname::text, a.attname::text, p.relname::text, b.attname::text"
            " FROM pg_constraint AS k JOIN pg_class AS c ON c.oid = k.conrelid"
            " JOIN pg_class AS p ON p.oid = k.confrelid"
            " JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = k.conkey[1]"
            " JOIN pg_attribute AS b ON b.attrelid = p.oid AND b.attnum = k.confkey[1]"
            " JOIN pg_namespace AS n ON n.oid = c.relnamespace"
            " WHERE k.contype = 'f' AND cardinality(k.conkey) = 1 AND n.nspname = %s",
            (domain,),
        ).fetchall()

    def manifests(self) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Every baseline that the store shows."""
        for path in sorted(self.store.glob("baselines/*/*/manifest.json")):
            yield path, json.loads(path.read_text(encoding="utf-8"))

    def _baselines(self) -> Iterator[str]:
        there = set()
        for path, manifest in self.manifests():
            there.add((manifest["domain"], manifest["baseline_id"]))
            yield from (f"{path.parent.name}: {problem}" for problem in damage(path, manifest))
        for domain, baseline in self.conn.execute(
            "SELECT domain, baseline_id FROM atdm.baseline WHERE status = 'complete'"
            " AND kind = 'captured'"
        ).fetchall():
            going = self.store / "baselines" / domain / baseline / "removed.json"
            if (domain, baseline) not in there and not going.exists():
                yield f"baseline {baseline} of {domain} is lost"

    def _catalog(self) -> Iterator[str]:
        for what, query in {
            "requests are pending": "SELECT count(*) FROM atdm.request WHERE status = 'pending'",
            "captures are under way": "SELECT count(*) FROM atdm.baseline"
            " WHERE status = 'capturing'",
            "databases are being made or dropped": "SELECT count(*) FROM atdm.clone"
            " WHERE status IN ('making', 'dropping')",
            "domains are draining": "SELECT count(*) FROM atdm.domain"
            " WHERE draining_until > clock_timestamp()",
            "runs are leased without token": "SELECT count(*) FROM atdm.test_run"
            " WHERE status = 'leased' AND token_sha256 IS NULL",
            "pools are claimed by requests that are over": "SELECT count(*) FROM atdm.top_up AS t"
            " LEFT JOIN atdm.request AS q USING (request_id)"
            " WHERE t.request_id IS NOT NULL AND q.status IS DISTINCT FROM 'ready'",
        }.items():
            count = self.number(query)
            if count:
                yield f"{count} {what}"

    def _audit(self) -> Iterator[str]:
        """What was begun has an end, and what is there is told."""
        for what, query in {
            "requests without the event that ends them": "SELECT count(*) FROM atdm.request AS q"
            " WHERE q.status <> 'pending' AND NOT EXISTS (SELECT FROM atdm.audit_event AS e"
            "  WHERE e.request_id = q.request_id AND e.action = CASE q.status"
            "  WHEN 'rejected' THEN 'plan_rejected' WHEN 'rolled_back' THEN 'seed_failed'"
            "  ELSE 'seed_completed' END)",
            "requests that began more often than they ended": "SELECT count(*) FROM ("
            "  SELECT request_id FROM atdm.audit_event WHERE request_id IS NOT NULL"
            "  GROUP BY request_id HAVING count(*) FILTER (WHERE action = 'request_received')"
            "  <> count(*) FILTER (WHERE action IN ('seed_completed', 'seed_failed',"
            "  'plan_rejected'))) AS uneven",
            "snapshots that began more often than they ended": "SELECT count(*) FROM ("
            "  SELECT domain, inputs ->> 'baseline_id' FROM atdm.audit_event"
            "  WHERE action LIKE 'snapshot\\_%' GROUP BY 1, 2"
            "  HAVING count(*) FILTER (WHERE action = 'snapshot_started')"
            "  <> count(*) FILTER (WHERE action <> 'snapshot_started')) AS uneven",
            "restores that began more often than they ended": "SELECT abs(count(*) FILTER"
            "  (WHERE action = 'restore_started') - count(*) FILTER (WHERE action IN"
            "  ('restore_completed', 'restore_failed'))) FROM atdm.audit_event",
            "baselines that no event tells of": "SELECT count(*) FROM atdm.baseline AS b"
            " WHERE b.status = 'complete' AND b.kind = 'captured' AND NOT EXISTS"
            "  (SELECT FROM atdm.audit_event AS e WHERE e.action = 'snapshot_completed'"
            "   AND e.inputs ->> 'baseline_id' = b.baseline_id)",
        }.items():
            count = self.number(query)
            if count:
                yield f"{count} {what}"
        # Who emptied the domain said how many went: those are over, and nobody else's.
        over = self.number(
            "SELECT count(*) FROM atdm.test_run WHERE status IN ('cleaned', 'expired')"
        )
        told = self.number(
            "SELECT coalesce(sum(coalesce((outputs ->> 'cleared_record_count')::bigint, 1)), 0)"
            " FROM atdm.audit_event WHERE action = 'reset_completed'"
        ) + self.number(
            "SELECT coalesce(sum((outputs #>> '{result,runs,cleaned}')::bigint"
            " + (outputs #>> '{result,runs,expired}')::bigint), 0)"
            " FROM atdm.audit_event WHERE action = 'restore_completed'"
        )
        # A restore brings runs back to life, whose end was told; so never fewer told than over.
        if over > told:
            yield f"{over} runs are over, the trail tells of {told}"

    def _stray_files(self) -> Iterator[str]:
        for path in self.store.rglob(".*"):
            if path.is_file():
                yield f"a half-written file is left: {path.relative_to(self.store)}"
        named: set[Path] = set()
        for path, manifest in self.manifests():
            named |= {path, *(path.parent / file["path"] for file in files_of(manifest))}
        for folder in ("baselines", "datasets"):
            for path in (self.store / folder).rglob("*"):
                if path.is_file() and path not in named and not path.name.startswith("."):
                    yield f"nobody's file is left: {path.relative_to(self.store)}"
        kept = {
            f"{domain}/{scenario}/{request}"
            for domain, scenario, request in self.conn.execute(
                "SELECT domain, scenario_id, request_id FROM atdm.request WHERE status = 'ready'"
            )
        }
        for folder in (self.store / "requests").glob("*/*/*"):
            if str(folder.relative_to(self.store / "requests")) not in kept:
                yield f"files of a request that is over: {folder.relative_to(self.store)}"

    def _databases(self) -> set[str]:
        return {
            str(name) for (name,) in self.conn.execute("SELECT datname FROM pg_database").fetchall()
        }

    def _stray_databases(self) -> Iterator[str]:
        registered = {
            str(name)
            for (name,) in self.conn.execute(
                "SELECT database_name FROM atdm.clone WHERE status <> 'dropped'"
            ).fetchall()
        }
        there = self._databases()
        for name in sorted(registered - there):
            yield f"database {name} is registered and not there"
        claimed = {
            str(name)
            for (name,) in self.conn.execute(
                "SELECT datname FROM pg_database WHERE shobj_description(oid, 'pg_database')"
                " LIKE '%for target ' || current_database() || ';%'"
            ).fetchall()
        }
        others = there - self.known_databases if self.own_server else claimed
        for name in sorted(others - registered):
            yield f"database {name} is nobody's"

    def _sessions(self) -> Iterator[str]:
        for application, state, query in self.conn.execute(
            "SELECT application_name, state, left(query, 60) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            " AND application_name NOT LIKE 'torture%' AND backend_type = 'client backend'"
        ).fetchall():
            yield f"a session is left: {application} {state}: {query}"


def files_of(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """Every file that a manifest names."""
    named = [file for table in manifest["tables"] for file in table["files"]]
    return named + [
        manifest["runs"][part] for part in ("file", "requests") if manifest["runs"].get(part)
    ]


def damage(path: Path, manifest: dict[str, Any]) -> Iterator[str]:
    """What is wrong with a baseline: checksums, sizes, rows, and references among its rows."""
    body = {name: value for name, value in manifest.items() if name != "manifest_sha256"}
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    if hashlib.sha256(text.encode()).hexdigest() != manifest["manifest_sha256"]:
        yield "the manifest was changed"
    for file in files_of(manifest):
        part = path.parent / file["path"]
        if not part.exists():
            yield f"{file['path']} is missing"
            continue
        content = part.read_bytes()
        if len(content) != file["bytes"]:
            yield f"{file['path']} has {len(content)} bytes, not {file['bytes']}"
        if hashlib.sha256(content).hexdigest() != file["sha256"]:
            yield f"{file['path']} was changed"
        elif pq.ParquetFile(part).metadata.num_rows != file["rows"]:
            yield f"{file['path']} does not have {file['rows']} rows"
    for table in manifest["tables"]:
        rows = sum(file["rows"] for file in table["files"])
        if rows != table["rows"]:
            yield f"{table['name']} has {rows} rows, not {table['rows']}"


def contents(reader: Reader, path: Path, manifest: dict[str, Any]) -> Iterator[str]:
    """What does not fit together among the rows of one baseline.

    Every reference has a row in the same baseline, and the runs that it says it holds are those
    that its rows bear.
    """
    rows = {
        table["name"]: pa.concat_tables(
            [pq.read_table(path.parent / file["path"]) for file in table["files"]]
        )
        for table in manifest["tables"]
        if table["files"]
    }
    name = path.parent.name
    for child, column, parent, key in reader.references_of(manifest["domain"]):
        found = set(rows[child].column(column).to_pylist()) - {None}
        lost = found - set(rows[parent].column(key).to_pylist())
        if lost:
            yield f"{name}: {len(lost)} of {child}.{column} refer to no {parent}"
    bearing: set[str] = set()
    for table in rows.values():
        if "test_run_id" in table.column_names:
            bearing |= set(table.column("test_run_id").to_pylist()) - {None}
    runs = manifest["runs"].get("file")
    known: set[str] = set()
    if runs:
        column = pq.read_table(path.parent / runs["path"], columns=["test_run_id"]).column(0)
        known = set(column.to_pylist())
    if bearing != known:
        yield f"{name}: {len(bearing ^ known)} runs have rows or are known, and not both"
