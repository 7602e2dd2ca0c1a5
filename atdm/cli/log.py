"""The log line of a command that did work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from atdm_engine.errors import AtdmError
from atdm_resources.settings import Settings

if TYPE_CHECKING:
    from atdm.cli.output import Output

_LOGGED: Final = ("request_id", "test_run_id", "dagster_run_id", "domain", "baseline_id")


def record(output: Output, name: str, seconds: float, failure: Exception | None) -> None:
    """Write one line: event, status, latency_ms, invoker, and the ids of the result.

    A client's installation has no structlog and writes nothing; nor does a terminal by default.
    """
    from atdm_resources.telemetry import logs

    try:
        logs.configure(service=False)
        invoker = Settings.from_environment().invoker
    except ModuleNotFoundError:
        return
    except AtdmError as error:
        output.note(error.message)
        return
    result: Mapping[str, Any] = output.result if isinstance(output.result, Mapping) else {}
    fields = {key: result.get(key) for key in _LOGGED}
    if result.get("scenario_id"):
        fields["scenario"] = "/".join(
            str(result[key]) for key in ("domain", "scenario_id") if result.get(key)
        )
    status = str(result.get("status") or "ok")
    if failure is not None:
        status = str(failure.code) if isinstance(failure, AtdmError) else type(failure).__name__
        fields = {"error": str(failure)}
    logs.record(
        name,
        status=status,
        seconds=seconds,
        level="info" if failure is None else "error",
        method="cli",
        invoker=invoker,
        **fields,
    )
