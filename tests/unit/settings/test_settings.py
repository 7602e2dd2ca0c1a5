"""What the environment says, and what it may not say."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.settings import S3Settings, Settings


def test_everything_has_a_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings.from_environment({})
    assert settings.home == tmp_path / ".atdm"
    assert settings.database_url is None
    assert settings.store_url == (tmp_path / ".atdm" / "store").as_uri()
    assert settings.fixture_dir == tmp_path / "automation" / "fixtures"
    assert settings.scenario_path == ()
    assert settings.invoker.startswith("human:")
    assert (settings.planner, settings.output) == ("rule", "human")


def test_everything_can_be_set() -> None:
    settings = Settings.from_environment(
        {
            "ATDM_HOME": "/h",
            "ATDM_DATABASE_URL": "postgresql://x/y",
            "ATDM_DAGSTER_DATABASE_URL": "postgresql://x/z",
            "ATDM_STORE_URL": "s3://bucket/prefix/",
            "ATDM_S3_ENDPOINT_URL": "http://localhost:9000",
            "ATDM_S3_REGION": "eu-central-1",
            "ATDM_S3_PATH_STYLE": "false",
            "ATDM_S3_ENCRYPTION": "aws:kms",
            "ATDM_S3_KMS_KEY_ID": "alias/k",
            "ATDM_FIXTURE_DIR": "/f",
            "ATDM_SCENARIO_PATH": os.pathsep.join(["/a", "", "/b"]),
            "ATDM_INVOKER": "agent:ci-7",
            "ATDM_PLANNER": "llm",
            "ATDM_CLI_OUTPUT": "json",
        }
    )
    assert settings == Settings(
        home=Path("/h"),
        database_url="postgresql://x/y",
        dagster_database_url="postgresql://x/z",
        store_url="s3://bucket/prefix",
        fixture_dir=Path("/f"),
        scenario_path=(Path("/a"), Path("/b")),
        invoker="agent:ci-7",
        planner="llm",
        output="json",
        s3=S3Settings(
            endpoint_url="http://localhost:9000",
            region="eu-central-1",
            path_style=False,
            encryption="aws:kms",
            kms_key_id="alias/k",
        ),
    )


def test_an_empty_variable_counts_as_unset() -> None:
    settings = Settings.from_environment({"ATDM_DATABASE_URL": " ", "ATDM_CLI_OUTPUT": ""})
    assert settings.database_url is None
    assert settings.output == "human"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ATDM_STORE_URL", "/just/a/path"),
        ("ATDM_STORE_URL", "gs://bucket"),
        ("ATDM_INVOKER", "somebody"),
        ("ATDM_INVOKER", "human:a b"),
        ("ATDM_PLANNER", "magic"),
        ("ATDM_CLI_OUTPUT", "xml"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(AtdmError) as caught:
        Settings.from_environment({name: value})
    assert caught.value.code is ErrorCode.REQUEST_INVALID
    assert caught.value.details["variable"] == name
    assert caught.value.details["found"] == value


@pytest.mark.parametrize(
    ("given", "variable"),
    [
        ({"ATDM_S3_ENCRYPTION": "rot13"}, "ATDM_S3_ENCRYPTION"),
        ({"ATDM_S3_PATH_STYLE": "yes"}, "ATDM_S3_PATH_STYLE"),
        ({"ATDM_S3_KMS_KEY_ID": "k"}, "ATDM_S3_KMS_KEY_ID"),
        (
            {"ATDM_S3_KMS_KEY_ID": "k", "ATDM_S3_ENCRYPTION": "AES256"},
            "ATDM_S3_KMS_KEY_ID",
        ),
    ],
)
def test_what_an_object_store_cannot_be_asked(given: dict[str, str], variable: str) -> None:
    with pytest.raises(AtdmError) as caught:
        Settings.from_environment(given)
    assert caught.value.code == ErrorCode.REQUEST_INVALID
    assert caught.value.details["variable"] == variable
