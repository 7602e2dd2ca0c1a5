"""What the command of the metrics is called and accepts."""

from __future__ import annotations

from typing import Annotated

import typer

from atdm.cli.app import app, command


@command(app, "metrics")
def metrics(
    context: typer.Context,
    port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65535, help="Serve /metrics and /healthz here until SIGTERM; 0: any port."
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="With --port: the address to listen on.")] = "127.0.0.1",
) -> int | None:
    """Print the metrics of the target as Prometheus text, or serve them.

    Example for Prometheus: atdm metrics --port 9464

    Example for node_exporter's textfile collector: atdm metrics > atdm.prom
    """
    from atdm.cli import metrics

    return metrics.metrics(context.obj, port=port, host=host)
