"""``atdm metrics``: prints the metrics once, or serves them until it is told to stop."""

from __future__ import annotations

import signal
import sys
import threading
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from atdm.cli.output import Output, write_line
from atdm_resources.settings import Settings
from atdm_services.extras import server_part

if TYPE_CHECKING:
    from atdm.cli.metrics_server import TargetUrl


def metrics(
    output: Output,
    port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65535, help="Serve /metrics and /healthz here until SIGTERM; 0: any port."
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="With --port: the address to listen on.")] = "127.0.0.1",
) -> int:
    """Print the metrics of the target as Prometheus text, or serve them.

    Exit status 1 when the target cannot be read.

    Example for Prometheus: atdm metrics --port 9464

    Example for node_exporter's textfile collector: atdm metrics > atdm.prom
    """
    with server_part("exposing metrics"):
        from atdm.cli import metrics_server
    from atdm_resources.local import postgres_server

    settings = Settings.from_environment()

    def url() -> str | None:
        # Looked up for every scrape: the embedded server may be started and stopped meanwhile.
        # Reading metrics does not start it.
        return settings.database_url or postgres_server.running_url(settings.home)

    if port is not None:
        _serve(output, settings, url, host, port)
        return 0
    collector = metrics_server.TargetCollector(url)
    try:
        collector.catch_up()
        text = metrics_server.text_of(collector)
    finally:
        collector.close()
    output.emit(metrics_server.samples(text), lambda: text.rstrip("\n"))
    if collector.problem is not None:
        write_line(sys.stderr, f"error {collector.problem.code}: {collector.problem.message}")
        return 1
    return 0


def _serve(output: Output, settings: Settings, url: TargetUrl, host: str, port: int) -> None:
    from atdm.cli import metrics_server
    from atdm_resources.telemetry import logs

    logs.configure(service=True)
    log = partial(logs.record, invoker=settings.invoker, method="metrics")
    collector = metrics_server.TargetCollector(
        url, lambda message: log("target_unreadable", level="error", error=message)
    )
    server = metrics_server.server(collector, host, port)
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    address = f"http://{host if ':' not in host else f'[{host}]'}:{server.server_port}"
    for task in (server.serve_forever, collector.catch_up):
        threading.Thread(target=task, daemon=True).start()
    output.emit(
        {"url": f"{address}/metrics", "healthz": f"{address}/healthz"},
        lambda: f"serving {address}/metrics",
    )
    log("metrics_serving", url=f"{address}/metrics", status="ok")
    stopped.wait()
    server.shutdown()
    server.server_close()
    collector.close()
    log("metrics_stopped", status="ok")
