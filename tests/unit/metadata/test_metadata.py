"""Metadata: tables in the UI, errors there and back."""

from __future__ import annotations

import dagster as dg
import pytest

from atdm_assets import metadata
from atdm_assets.names import safe_tag
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_engine.spec.table import TableSpec


def test_an_error_survives_the_way_through_dagster() -> None:
    error = AtdmError(ErrorCode.BUSY, "somebody is at it", {"runs": [1, 2], "by": {"a": 1}})
    failed = metadata.failure(error)
    values = {name: value.value for name, value in failed.metadata.items()}
    back = metadata.error_in(failed.description or "", values)
    assert back is not None
    assert back.envelope() == error.envelope()
    assert not failed.allow_retries


def test_metadata_of_other_failures_is_no_error_with_a_code() -> None:
    assert metadata.error_in("x", {}) is None
    assert metadata.error_in("x", {"error_code": "SOMETHING_ELSE"}) is None


def test_errors_with_a_code_become_failures_and_others_stay() -> None:
    with pytest.raises(dg.Failure) as caught, metadata.reported_failures():
        raise AtdmError(ErrorCode.SEED_FAILED, "no")
    assert caught.value.metadata["error_code"].value == "SEED_FAILED"
    with pytest.raises(ZeroDivisionError), metadata.reported_failures():
        _ = 1 / 0


def test_rows_of_different_columns_make_one_table_with_long_texts_cut() -> None:
    table = metadata.records_table([{"a": 1}, {"b": "x" * 500, "a": None}])
    assert isinstance(table, dg.TableMetadataValue)
    assert [column.name for column in table.schema.columns] == ["a", "b"]
    assert table.records[0].data == {"a": 1, "b": None}
    assert len(str(table.records[1].data["b"])) == metadata.MOST_TEXT


def test_no_rows_are_no_table() -> None:
    assert metadata.records_table([]) == dg.MetadataValue.null()


def test_a_profile_is_one_line_a_column() -> None:
    known = {"nulls": 0, "distinct": 1, "min": 1, "max": 9}
    column = {**known, "top": [{"value": 1, "rows": 3}], "histogram": None}
    table = metadata.profile_table({"rows": 4, "columns": {"n": column}})
    assert isinstance(table, dg.TableMetadataValue)
    assert table.records[0].data == {"column": "n", **known, "chart": "", "top": "1 (3)"}


def test_a_column_schema_shows_what_the_table_file_demands() -> None:
    spec = TableSpec.model_validate(
        {
            "description": "t",
            "key": "id",
            "columns": {
                "id": {"type": "text"},
                "n": {"type": "integer", "nullable": True, "min": 1, "max": 9},
            },
            "checks": {"small": "n < 5"},
        }
    )
    schema = metadata.column_schema(spec)
    assert [(column.name, column.type) for column in schema.columns] == [
        ("id", "text"),
        ("n", "integer"),
        ("test_run_id", "text"),
    ]
    assert schema.columns[0].constraints.unique
    assert not schema.columns[0].constraints.nullable
    assert schema.columns[1].constraints.other == ["at least 1", "at most 9"]
    assert schema.constraints.other == ["n < 5"]


def test_nothing_timed_is_no_rate() -> None:
    assert metadata.rate(5, 0.0) == 0
    assert metadata.rate(5, 2.0) == 2


@pytest.mark.parametrize(
    ("text", "tag"), [("a b/c", "a_b_c"), ("x" * 80, "x" * 63), ("v1.2-x", "v1.2-x")]
)
def test_tags_are_made_safe(text: str, tag: str) -> None:
    assert safe_tag(text) == tag


def test_a_request_says_how_to_get_its_audit_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ATDM_AUDIT_URL", raising=False)
    command = {"audit": "atdm audit 01K --html audit-01K.html"}
    assert metadata.audit_link("01K") == command
    monkeypatch.setenv("ATDM_AUDIT_URL", "https://audit.example/pages/")
    assert metadata.audit_link("01K") == {
        **command,
        "audit_page": dg.MetadataValue.url("https://audit.example/pages/01K"),
    }
