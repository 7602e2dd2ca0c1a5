"""What the code location offers: a snapshot of it, and what must hold of any bundle.

The snapshot is written anew with ``ATDM_UPDATE_GOLDEN=1 python -m pytest <this file>``; look at the
difference before committing it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from atdm_assets.definitions import build_defs
from atdm_assets.instance.storage import psycopg2_url
from atdm_engine.bundle.registry import Registry
from atdm_engine.bundle.spec_file import SpecFile
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.store.bundle import read_bundle, shipped_root

pytest_plugins = ["tests.support.dagster_fixtures"]

GOLDEN = Path(__file__).parents[2] / "golden" / "definitions.json"
SHOWN = "claim_denial_active_member"
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def location(registry: Registry) -> dg.RepositoryDefinition:
    return build_defs(scenarios=registry).get_repository_def()


def described(location: dg.RepositoryDefinition) -> dict[str, Any]:
    """The code location in JSON: every name, and one scenario in full."""
    graph = location.asset_graph
    assets = {key.to_user_string(): graph.get(key) for key in graph.get_all_asset_keys()}
    return {
        "jobs": sorted(job.name for job in location.get_all_jobs() if job.name != "__ASSET_JOB"),
        "sensors": {
            sensor.name: {
                "every": sensor.minimum_interval_seconds,
                "runs": sensor.default_status is dg.DefaultSensorStatus.RUNNING,
            }
            for sensor in sorted(location.sensor_defs, key=lambda sensor: sensor.name)
        },
        "schedules": {
            schedule.name: str(schedule.cron_schedule)
            for schedule in sorted(location.schedule_defs, key=lambda schedule: schedule.name)
        },
        "lifecycle": {
            name: sorted(key.name for key in node.check_keys)
            for name, node in sorted(assets.items())
            if name.count("/") == 1
        },
        "groups": sorted({node.group_name for node in assets.values()}),
        "partitions": sorted(
            {
                node.partitions_def.name or ""
                for node in assets.values()
                if isinstance(node.partitions_def, dg.DynamicPartitionsDefinition)
            }
        ),
        "scenario": {
            name: {
                "after": sorted(parent.to_user_string() for parent in node.parent_keys),
                "checks": sorted(key.name for key in node.check_keys),
                "group": node.group_name,
                "kinds": sorted(node.kinds),
                "owners": list(node.owners),
                "tags": sorted(tag for tag in node.tags if not tag.startswith("dagster/kind")),
                "description": node.description,
            }
            for name, node in sorted(assets.items())
            if name.split("/")[1] in (SHOWN, "reference") and name.count("/") == 2
        },
        "form": form(location, f"healthcare__{SHOWN}", f"healthcare__{SHOWN}__request"),
        "request_form": form(location, "request_data", "request"),
    }


def form(location: dg.RepositoryDefinition, job: str, step: str) -> dict[str, Any]:
    """The fields of a step's launchpad form with what may be entered."""
    node = location.get_job(job).get_node_named(step)
    schema = node.definition.config_schema  # type: ignore[attr-defined]
    return fields_of(schema.config_type)


def fields_of(config_type: Any) -> dict[str, Any]:
    found = {}
    for name, field in sorted(config_type.fields.items()):
        inner = getattr(field.config_type, "inner_type", field.config_type)
        if getattr(inner, "config_values", None):
            found[name] = sorted(inner.config_values)
        elif getattr(inner, "fields", None):
            found[name] = fields_of(inner)
        else:
            found[name] = inner.given_name or inner.kind.value
        if field.is_required:
            found[name] = {"required": found[name]}
    return found


def test_the_definitions_are_as_recorded(location: dg.RepositoryDefinition) -> None:
    found = described(location)
    if os.environ.get("ATDM_UPDATE_GOLDEN"):
        GOLDEN.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    assert found == json.loads(GOLDEN.read_text(encoding="utf-8"))


def test_every_table_of_every_scenario_has_a_blocking_check(
    location: dg.RepositoryDefinition, registry: Registry
) -> None:
    graph = location.asset_graph
    for scenario in registry.scenarios.values():
        for table in scenario.tables:
            node = graph.get(dg.AssetKey([scenario.domain, scenario.name, table]))
            assert node.check_keys, f"{scenario.key}/{table}"
            for key in node.check_keys:
                assert graph.get(key).blocking


def test_requirements_and_version_are_on_the_assets(
    location: dg.RepositoryDefinition, registry: Registry
) -> None:
    for scenario in registry.scenarios.values():
        node = location.asset_graph.get(dg.AssetKey([scenario.domain, scenario.name, "request"]))
        ids = node.metadata["linked_requirement_ids"]
        assert getattr(ids, "data", None) == scenario.spec.linked_requirement_ids
        assert node.code_version == scenario.version


def test_every_job_runs_its_steps_in_one_process(location: dg.RepositoryDefinition) -> None:
    for job in location.get_all_jobs():
        assert job.executor_def.name == "in_process", job.name


def test_the_launchpad_of_request_data_opens_with_an_example(
    location: dg.RepositoryDefinition, registry: Registry
) -> None:
    config = location.get_job("request_data").run_config
    assert config is not None
    example = config["ops"]["request"]["config"]["scenario"]
    assert not registry.scenario(example).spec.violates


def many_scenarios(count: int) -> Registry:
    """The shipped bundle with copies of one scenario, ``count`` scenarios in all."""
    files = read_bundle([shipped_root()])
    text = next(file.text for file in files if file.name == f"healthcare/{SHOWN}.yaml")
    there = len(Registry.build(files).scenarios)
    copies = [
        SpecFile(
            "x",
            f"healthcare/copy_{n}.yaml",
            text.replace(f"scenario_id: {SHOWN}", f"scenario_id: copy_{n}"),
        )
        for n in range(count - there)
    ]
    return Registry.build([*files, *copies])


def test_forty_scenarios_have_a_job_each() -> None:
    registry = many_scenarios(40)
    location = build_defs(scenarios=registry).get_repository_def()
    location.load_all_definitions()
    jobs = {job.name for job in location.get_all_jobs()}
    assert {f"{one.domain}__{one.name}" for one in registry.scenarios.values()} <= jobs
    assert len(registry.scenarios) == 40


def test_a_scenario_with_the_name_of_the_reference_assets_is_refused() -> None:
    name = "reference"
    files = read_bundle([shipped_root()])
    text = next(file.text for file in files if file.name == f"healthcare/{SHOWN}.yaml")
    text = text.replace(f"scenario_id: {SHOWN}", f"scenario_id: {name}")
    added = Registry.build([*files, SpecFile("x", f"healthcare/{name}.yaml", text)])
    with pytest.raises(AtdmError) as caught:
        build_defs(scenarios=added)
    assert caught.value.code == ErrorCode.SPEC_INVALID
    assert name in caught.value.message


def test_loading_the_code_location_prints_no_warning() -> None:
    script = (
        "import warnings; warnings.simplefilter('error', FutureWarning)\n"
        "from atdm_assets.definitions import defs\n"
        "defs().get_repository_def().load_all_definitions()\n"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert (loaded.returncode, loaded.stdout, loaded.stderr) == (0, "", "")


def test_loading_leaves_what_only_steps_need_alone() -> None:
    script = (
        "import sys\n"
        "from atdm_assets.definitions import defs\n"
        "defs().get_repository_def().load_all_definitions()\n"
        "print([name for name in ('pandera', 'faker', 's3fs') if name in sys.modules])\n"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert loaded.stdout.strip() == "[]"


def test_plain_dagster_validates_the_workspace(empty_database: str, tmp_path: Path) -> None:
    (tmp_path / "dagster.yaml").write_text((ROOT / "dagster.yaml").read_text())
    validated = subprocess.run(
        [
            Path(sys.executable).with_name("dagster"),
            "definitions",
            "validate",
            "-w",
            "workspace.yaml",
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={
            **os.environ,
            "DAGSTER_HOME": str(tmp_path),
            "ATDM_DAGSTER_DATABASE_URL": psycopg2_url(empty_database),
        },
        check=False,
    )
    assert validated.returncode == 0, validated.stderr
    assert "All code locations passed validation" in validated.stderr + validated.stdout
