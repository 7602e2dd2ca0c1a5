"""How long pages of the webserver take with many partitions, in a real browser.

Run: python benchmarks/webserver.py [--partitions 1000 10000] [--rounds N] [--output FILE]. Makes a
home of its own with an embedded PostgreSQL and a webserver, registers ever more requests of one
scenario as materialised partitions, and opens the same pages in headless Chromium (CHROMIUM_PATH,
else the one on the path) at each size. The peer is the same page at ten partitions in the same run.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
from playwright.sync_api import Page, sync_playwright

from atdm_assets import names
from atdm_assets.instance.local_instance import instance
from atdm_resources.settings import Settings
from atdm_services.requests.request import mint_request_id

ATDM = str(Path(sys.executable).with_name("atdm"))
DOMAIN, SCENARIO = "healthcare", "active_member_clean"
FEW = 10
PAGES = {
    "catalog": ("/assets", "A service request submitted"),
    "asset": (f"/assets/{DOMAIN}/{SCENARIO}/seeded", "Latest materialization"),
    "partitions": (f"/assets/{DOMAIN}/{SCENARIO}/seeded?view=partitions", "Partitions Selected"),
    "launchpad": ("/locations/atdm/jobs/request_data/playground", "Launch Run"),
    "runs": ("/runs", "Launched by"),
}
"""Address, and a text that stands on the page once it has what it shows."""

FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--partitions", type=int, nargs="+", default=[1_000, 10_000])
    parser.add_argument("--rounds", type=int, default=3, help="how often each page is opened")
    parser.add_argument("--output", type=Path, help="write the figures as JSON to this file")
    options = parser.parse_args()
    chromium = os.environ.get("CHROMIUM_PATH") or shutil.which("chromium")
    if chromium is None:
        raise SystemExit("no Chromium: install it or set CHROMIUM_PATH")
    with webserver() as (address, settings):
        figures = measure(address, settings, chromium, [FEW, *options.partitions], options.rounds)
    report(figures)
    if options.output:
        options.output.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 0


@contextmanager
def webserver() -> Iterator[tuple[str, Settings]]:
    """A webserver in a home of its own: its address and settings."""
    with tempfile.TemporaryDirectory(prefix="atdm-bench-") as folder:
        Path(folder).chmod(0o755)
        os.environ["ATDM_HOME"] = str(Path(folder) / "home")
        try:
            up = subprocess.run(
                [ATDM, "-o", "json", "up"], check=True, capture_output=True, text=True
            )
            subprocess.run([ATDM, "request", SCENARIO, "--no-lease"], check=True)
            yield json.loads(up.stdout)["url"], Settings.from_environment()
        finally:
            subprocess.run([ATDM, "down"], check=False, capture_output=True)


def measure(
    address: str, settings: Settings, chromium: str, sizes: list[int], rounds: int
) -> dict[str, Any]:
    """Seconds until each page shows what it is for, by number of partitions."""
    seconds: dict[str, dict[int, float]] = {page: {} for page in PAGES}
    there = 0
    with sync_playwright() as playwright, instance(settings) as opened:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        page = browser.new_page()
        for size in sizes:
            register(opened, size - there)
            there = size
            for name in PAGES:
                timed = [open_page(page, address, name) for _ in range(rounds + 1)]
                # The first fills the browser's and the server's caches.
                seconds[name][size] = statistics.median(timed[1:])
        browser.close()
    return {"sizes": sizes, "rounds": rounds, "load": os.getloadavg(), "seconds": seconds}


def register(opened: dg.DagsterInstance, count: int) -> None:
    """So many more requests, as partitions with a materialisation."""
    keys = [mint_request_id() for _ in range(count)]
    opened.add_dynamic_partitions(names.partitions_name(DOMAIN, SCENARIO), keys)
    asset = names.seeded_key(DOMAIN, SCENARIO)
    for key in keys:
        opened.report_runless_asset_event(dg.AssetMaterialization(asset, partition=key))


def open_page(page: Page, address: str, name: str) -> float:
    """Seconds from asking for a page until its text stands there."""
    path, text = PAGES[name]
    started = time.perf_counter()
    page.goto(address + path)
    page.get_by_text(text).first.wait_for(timeout=120_000)
    return time.perf_counter() - started


def report(figures: dict[str, Any]) -> None:
    """Print a line a page: the peer, then seconds and ratio at each size."""
    few, *sizes = figures["sizes"]
    print(f"load {figures['load'][0]:.1f}; median of {figures['rounds']} visits")
    head = "".join(f"{f'{size:,}':>12}{'ratio':>8}" for size in sizes)
    print(f"{'page':<14}{f'{few} s':>8}{head}")
    for name, by_size in figures["seconds"].items():
        line = "".join(
            f"{by_size[size]:>10.2f} s{by_size[size] / by_size[few]:>8.2f}" for size in sizes
        )
        print(f"{name:<14}{by_size[few]:>8.2f}{line}")


if __name__ == "__main__":
    raise SystemExit(main())
