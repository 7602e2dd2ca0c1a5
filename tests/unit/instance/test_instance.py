"""The instance's home folder and what plain Dagster commands need."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from atdm_assets.instance import local_instance
from atdm_resources.settings import Settings


def settings(home: Path, **variables: str) -> Settings:
    return Settings.from_environment({"ATDM_HOME": str(home), **variables})


def test_the_home_gets_the_shipped_file_and_keeps_it_current(tmp_path: Path) -> None:
    folder = local_instance.prepare_home(settings(tmp_path))
    path = folder / "dagster.yaml"
    assert folder == tmp_path / "dagster"
    assert path.read_text() == local_instance.shipped_config()
    unchanged = path.stat().st_mtime_ns
    local_instance.prepare_home(settings(tmp_path))
    assert path.stat().st_mtime_ns == unchanged, "an equal file is not written again"
    path.write_text("something: else")
    local_instance.prepare_home(settings(tmp_path))
    assert path.read_text() == local_instance.shipped_config()
    assert [entry.name for entry in folder.iterdir()] == ["dagster.yaml"]


def test_the_shipped_file_sends_nothing_home_and_keeps_secrets_out() -> None:
    config = yaml.safe_load(local_instance.shipped_config())
    assert config["telemetry"] == {"enabled": False}
    assert config["storage"] == {"postgres": {"postgres_url": {"env": "ATDM_DAGSTER_DATABASE_URL"}}}


@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+psycopg2"])
def test_the_environment_names_the_driver(tmp_path: Path, scheme: str) -> None:
    given = settings(tmp_path, ATDM_DAGSTER_DATABASE_URL=f"{scheme}://u:p%40ss@h:5/d")
    assert local_instance.environment(given) == {
        "DAGSTER_HOME": str(tmp_path / "dagster"),
        "ATDM_DAGSTER_DATABASE_URL": "postgresql+psycopg2://u:p%40ss@h:5/d",
    }
