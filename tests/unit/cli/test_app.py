"""Modules of commands are imported when they are needed, and cost nothing but themselves."""

from __future__ import annotations

import subprocess
import sys

HEAVY = {"psycopg", "dagster", "pandas", "pyarrow", "sqlalchemy", "pydantic", "httpx", "rich"}


def loaded(statement: str) -> set[str]:
    """What ``sys.modules`` holds after a statement about ``group``, the root of ``atdm``."""
    script = (
        "import sys, typer.main\n"
        "from atdm.cli.app import app\n"
        "group = typer.main.get_command(app)\n"
        f"{statement}\n"
        "print(' '.join(sys.modules))"
    )
    return set(
        subprocess.run(
            [sys.executable, "-c", script], check=True, capture_output=True, text=True
        ).stdout.split()
    )


def test_a_command_imports_its_own_module() -> None:
    modules = {name for name in loaded("group.commands['env']") if name.startswith("atdm.cli.")}
    assert modules == {f"atdm.cli.{name}" for name in ("app", "output", "services", "target")}


def test_the_help_of_all_commands_imports_nothing_heavy() -> None:
    modules = loaded("[one.help for one in group.commands.values()]")
    assert "atdm.cli.demo" in modules
    assert HEAVY & modules == set()
