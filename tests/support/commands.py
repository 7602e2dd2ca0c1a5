"""The commands of the command line and their options, read from the application itself."""

from __future__ import annotations

from typing import Any

import typer.main

from atdm.cli.app import app


def commands() -> dict[str, Any]:
    """Every command by name. The empty name holds the options that come before a command."""
    found: dict[str, Any] = {}
    waiting: list[tuple[str, Any]] = [("", typer.main.get_command(app))]
    while waiting:
        name, command = waiting.pop()
        found[name] = command
        for child, nested in getattr(command, "commands", {}).items():
            waiting.append((f"{name} {child}".strip(), nested))
    return found


def command_options() -> dict[str, set[str]]:
    """The option texts (``--json``, ``-o``) of every command by name."""
    return {
        name: {text for one in command.params for text in (*one.opts, *one.secondary_opts)}
        for name, command in commands().items()
    }
