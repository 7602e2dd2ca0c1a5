"""The root of ``atdm``: the table of commands, the options before a command, the exit statuses.

A command is a function of the module that the table names. Its first parameter is the ``Output``,
the others are its arguments and options, its docstring is its help, and it returns its exit status
(None is 0). The module is imported when the command runs or help lists it, so a module imports at
its top only what costs nothing; a function imports psycopg, Dagster and pandas when it needs them.
"""

from __future__ import annotations

import importlib
import inspect
import time
from collections import UserDict
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final

import typer
import typer.core

from atdm.cli.output import Mode, Output
from atdm_engine.errors import AtdmError

_COMMANDS: Final = {
    "init": "target",
    "up": "services",
    "down": "services",
    "status": "health",
    "env": "services",
    "schema": "scenarios",
    "scenarios": "scenarios",
    "request": "requests",
    "reset": "leases",
    "reset-all": "leases",
    "dataset-build": "datasets",
    "vocabulary": "scenarios",
    "demo": "demo",
    "baseline-snapshot": "baselines",
    "baseline-restore": "baselines",
    "baseline-list": "baselines",
    "baseline-verify": "baselines",
    "baseline-diff": "baselines",
    "baseline-delete": "baselines",
    "baseline-clone": "clones",
    "baseline-clones": "clones",
    "queue": "queue",
    "claim": "queue",
    "suite-started": "queue",
    "suite-finished": "queue",
    "audit-verify": "audit",
    "audit-seal": "audit",
    "metrics": "metrics",
    "replay": "replay",
    "coverage": "coverage",
    "audit": "audit",
    "audit-serve": "audit",
}
"""The module of every command, in the order of ``atdm --help``."""

_CATALOG_COMMANDS: Final = {"scenarios": "catalog", "requests": "catalog", "runs": "catalog"}


class _Commands(UserDict[str, Any]):
    """Commands by name. A command is made from its module when it is first looked up."""

    def __getitem__(self, name: str) -> Any:
        command = self.data[name]
        if isinstance(command, str):
            module = importlib.import_module(f"atdm.cli.{command}")
            holder = typer.Typer(add_completion=False)
            holder.command(name)(_exiting(name, getattr(module, name.replace("-", "_"))))
            command = self.data[name] = typer.main.get_command(holder)
        return command


def _group(modules: Mapping[str, str], **settings: Any) -> typer.Typer:
    """A group of the commands whose modules are given, and of those that are added to it."""

    class Group(typer.core.TyperGroup):
        def __init__(self, **attributes: Any) -> None:
            super().__init__(**attributes)
            self.commands = _Commands({**modules, **self.commands})

    return typer.Typer(cls=Group, no_args_is_help=True, **settings)


def _exiting(name: str, function: Callable[..., int | None]) -> Callable[..., None]:
    """``function`` as Typer calls it: with the context, and ended by an exit status.

    Its errors are printed. If it did work, it is logged.
    """

    def run(context: typer.Context, **arguments: Any) -> None:
        output: Output = context.obj
        started = time.perf_counter()
        failure: Exception | None = None
        try:
            status = function(output, **arguments)
        except AtdmError as error:
            failure, status = error, output.fail(error)
        except (typer.Exit, typer.Abort, typer.BadParameter, BrokenPipeError):
            raise
        except Exception as error:
            failure, status = error, output.fail_unexpected(error)
        if output.worked:
            from atdm.cli import log

            log.record(output, name, time.perf_counter() - started, failure)
        raise typer.Exit(status or 0)

    signature = inspect.signature(function, eval_str=True)
    output, *options = signature.parameters.values()
    context = output.replace(name="context", annotation=typer.Context)
    run.__signature__ = signature.replace(parameters=[context, *options])  # type: ignore[attr-defined]
    run.__doc__ = function.__doc__
    return run


app = _group(
    _COMMANDS,
    name="atdm",
    help="Test data by intent: valid, isolated, reproducible, and gone again afterwards.",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(
    _group(_CATALOG_COMMANDS, help="What the target knows: scenarios, requests and runs."),
    name="catalog",
)


@app.callback()
def options(
    context: typer.Context,
    output: Annotated[
        Mode,
        typer.Option("--output", "-o", envvar="ATDM_CLI_OUTPUT", help="How results are printed."),
    ] = Mode.HUMAN,
    debug: Annotated[
        bool, typer.Option("--debug", envvar="ATDM_DEBUG", help="Print tracebacks of errors.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no notes.")] = False,
) -> None:
    """Test data by intent: valid, isolated, reproducible, and gone again afterwards."""
    context.obj = Output(mode=output, debug=debug, quiet=quiet)
