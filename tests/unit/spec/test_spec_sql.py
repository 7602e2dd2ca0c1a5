"""SQL of specification files: what is read from it, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, closing

import duckdb
import pyarrow as pa
import pytest

from atdm_engine.arrow.duck import (
    SqlProblem,
    connect,
    inspect_expression,
    inspect_query,
    reading,
)


class TestConnection:
    @pytest.mark.parametrize(
        "sql",
        [
            "SELECT * FROM 'secret.csv'",
            "SELECT * FROM read_text('/etc/passwd')",
            "COPY (SELECT 1) TO '/tmp/atdm_leak.csv'",
            "ATTACH '/tmp/atdm_leak.db'",
            "INSTALL httpfs",
            "SET threads = 8",
            "SET enable_external_access = true",
            "RESET TimeZone",
        ],
    )
    def test_nothing_outside_can_be_reached_or_changed(self, sql: str) -> None:
        with pytest.raises(duckdb.Error):
            connect().execute(sql).fetchall()

    def test_python_variables_are_out_of_reach(self) -> None:
        secret = pa.table({"a": [1]})
        assert secret.num_rows == 1
        with pytest.raises(duckdb.CatalogException):
            connect().execute("SELECT * FROM secret")

    @pytest.mark.parametrize(
        "opened", [lambda: closing(connect()), reading, lambda: closing(connect().cursor())]
    )
    def test_time_zone_and_division_are_fixed(
        self,
        opened: Callable[[], AbstractContextManager[duckdb.DuckDBPyConnection]],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("TZ", "Asia/Tokyo")
        sql = "SELECT CAST(TIMESTAMPTZ '2026-01-31 23:30:00+00' AS DATE)::VARCHAR, 7 / 2, -7 / 2"
        with opened() as connection:
            row = connection.execute(sql)
            # PostgreSQL: integers divide to integers, towards zero.
            assert row.fetchall() == [("2026-01-31", 3, -3)]


class TestQueries:
    def test_tables_columns_and_the_first_of_them(self) -> None:
        query = inspect_query(
            "WITH x AS (SELECT * FROM b) SELECT a.id, x.v, w FROM t1 AS a JOIN x USING (id) "
            "WHERE a.s = (SELECT max(q) FROM c)"
        )
        assert query.tables == ("b", "c", "t1")
        assert query.first_column == ("t1", "id")
        assert {("t1", "id"), ("t1", "s"), ("", "w"), ("", "q"), ("x", "v")} <= query.columns
        assert query.aggregates

    @pytest.mark.parametrize(
        "sql",
        [
            "SELECT random()", "SELECT uuid()", "SELECT gen_random_uuid()", "SELECT setseed(0.5)",
            "SELECT now()", "SELECT current_timestamp", "SELECT current_date", "SELECT today()",
            "SELECT get_current_timestamp()", "SELECT localtimestamp", "SELECT txid_current()",
            "SELECT age(TIMESTAMP '2020-01-01')", "SELECT current_user", "SELECT nextval('s')",
            "SELECT current_setting('threads')", "SELECT getvariable('x')", "SELECT pg_sleep(1)",
            "SELECT list_transform([1], x -> x + random())",
            "SELECT 1 FROM t WHERE EXISTS (SELECT 1 FROM u WHERE uuid() IS NULL)",
            "SELECT * FROM t USING SAMPLE 10%", "SELECT * FROM t TABLESAMPLE 10%",
            "SELECT * FROM read_csv('x')", "SELECT * FROM duckdb_settings()",
            "SELECT * FROM query('SELECT 1')", "SELECT * FROM main.t", "SUMMARIZE t",
            "SELECT 1; SELECT 2", "DELETE FROM t", "DROP TABLE t", "PRAGMA version", "", "SELEC 1",
            "SELECT " + "(" * 5000 + "1" + ")" * 5000,
        ],
    )  # fmt: skip
    def test_refused(self, sql: str) -> None:
        with pytest.raises(SqlProblem) as error:
            inspect_query(sql)
        assert error.value.message

    @pytest.mark.parametrize(
        "sql",
        [
            "SELECT count(*) OVER (PARTITION BY a ORDER BY b) FROM t",
            "SELECT split_part(a, '-', 1), array_to_string(l, ','), date_trunc('day', d) FROM t",
            "SELECT age(a, b), coalesce(a, b), nullif(a, b), md5(a), a ~ 'x', a LIKE 'y%' FROM t",
            "SELECT j ->> '$.a', json_extract(j, '$.b'), strftime(d, '%Y') FROM t",
            "SELECT unnest([1, 2]), x FROM generate_series(1, 3) AS g(x)",
            "-- a comment\nSELECT 1 -- and another",
        ],
    )
    def test_allowed(self, sql: str) -> None:
        inspect_query(sql)

    def test_the_line_of_a_syntax_error(self) -> None:
        with pytest.raises(SqlProblem) as error:
            inspect_query("-- a rule\nSELECT a\nFORM t\nWHERE")
        assert error.value.line >= 3


class TestExpressions:
    def test_columns(self) -> None:
        found = inspect_expression("state <> 'x' -- why\n OR parent.amount > total")
        assert found.columns == {("", "state"), ("parent", "amount"), ("", "total")}
        assert not found.aggregates

    @pytest.mark.parametrize(
        "sql",
        ["", "a, b", "1) AS x, (2", "a = 1)", "1) AS x FROM (SELECT 1", "1) UNION SELECT (2",
         "a; b", "a *", "random() > a"],
    )  # fmt: skip
    def test_refused(self, sql: str) -> None:
        with pytest.raises(SqlProblem):
            inspect_expression(sql)
