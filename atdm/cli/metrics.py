"""``atdm metrics``: printing once, or serving until told to stop."""

from __future__ import annotations

import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

from atdm.cli.output import write_line
from atdm_resources.local import postgres_server
from atdm_resources.settings import Settings
from atdm_services.extras import server_part

if TYPE_CHECKING:
    from atdm.cli.output import Output


def metrics(output: Output, *, port: int | None, host: str) -> int:
    """Print one scrape, or serve; exit status 1 when the target cannot be read."""
    with server_part("exposing metrics"):
        from atdm.cli import metrics_server as exposing
    settings = Settings.from_environment()

    def url() -> str | None:
        # Asked anew each time: the embedded server may be started and stopped meanwhile. Whoever
        # looks at a target does not start it.
        return settings.database_url or postgres_server.running_url(settings.home)

    if port is not None:
        return _serve(output, settings, url, host, port)
    collector = exposing.TargetCollector(url)
    try:
        collector.catch_up()
        text = exposing.text_of(collector)
    finally:
        collector.close()
    output.emit(exposing.samples(text), lambda: text.rstrip("\n"))
    if collector.problem is not None:
        write_line(sys.stderr, f"error {collector.problem.code}: {collector.problem.message}")
        return 1
    return 0


def _serve(output: Output, settings: Settings, url: Any, host: str, port: int) -> int:
    from atdm.cli import metrics_server as exposing
    from atdm_resources.telemetry import logs

    logs.configure(service=True)
    log = logs.logger().bind(invoker=settings.invoker, method="metrics")
    collector = exposing.TargetCollector(
        url, lambda message: log.error("target_unreadable", error=message)
    )
    server = exposing.server(collector, host, port)
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
    log.info("metrics_serving", url=f"{address}/metrics", status="ok")
    stopped.wait()
    server.shutdown()
    server.server_close()
    collector.close()
    log.info("metrics_stopped", status="ok")
    return 0
