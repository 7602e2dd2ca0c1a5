"""How long the commands take as processes, and where the time goes.

Run: python benchmarks/cli.py [--rounds N] [--output FILE]. Makes a home of its own with an
embedded PostgreSQL, asks for a leased and for a materialised run as `atdm request` processes, and
times `atdm --help`, `atdm scenarios`, `python -c pass` and `python -c "import dagster"` in turn
with them, so that all see the same machine. Targets: 0.3 s to print or lease, 3 s to
make.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PYTHON = sys.executable
ATDM = str(Path(sys.executable).with_name("atdm"))
SCENARIO = "active_member_clean"
TARGET_SECONDS = {
    "atdm --help": 0.3,
    "atdm scenarios": 0.3,
    "atdm request, leased": 0.3,
    "atdm request, materialised": 3.0,
}
IMPORT_LINE = re.compile(r"import time:\s+(\d+) \|\s+(\d+) \| +(\S+)")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=7, help="how often each command runs")
    parser.add_argument("--output", type=Path, help="write the figures as JSON to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="atdm-bench-") as folder:
        environment = clean_environment(Path(folder))
        try:
            figures = measure(environment, options.rounds)
        finally:
            run([ATDM, "down"], environment)
    report(figures)
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 0


def clean_environment(home: Path) -> dict[str, str]:
    """This environment with a home of its own and, as installed packages have it, bytecode."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("ATDM_", "DAGSTER_")) and name != "PYTHONDONTWRITEBYTECODE"
    }
    return {**kept, "ATDM_HOME": str(home), "ATDM_INVOKER": "human:benchmark"}


def measure(environment: Mapping[str, str], rounds: int) -> dict[str, Any]:
    """Wall clock seconds of every command, rounds interleaved, and two import breakdowns."""
    run([ATDM, "init"], environment)
    request = [ATDM, "-o", "json", "request", SCENARIO]
    commands = {
        "python -c pass": [PYTHON, "-c", "pass"],
        'python -c "import psycopg"': [PYTHON, "-c", "import psycopg"],
        'python -c "import typer"': [PYTHON, "-c", "import typer"],
        'python -c "import dagster"': [PYTHON, "-c", "import dagster"],
        "atdm --help": [ATDM, "--help"],
        "atdm scenarios": [ATDM, "scenarios", "denied", "claim"],
        "atdm request, leased": request,
        "atdm request, materialised": [*request, "--seed", "1"],
    }
    # One round before the clock runs: it writes the bytecode and fills the pool.
    run([*request, "--no-lease", "--runs", str(rounds + 2)], environment)
    for command in commands.values():
        run(command, environment)
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            started = time.perf_counter()
            run(command, environment)
            seconds[name].append(time.perf_counter() - started)
    return {
        "machine": {
            "python": platform.python_version(),
            "system": platform.platform(),
            "processors": os.cpu_count(),
            "load": os.getloadavg(),
        },
        "rounds": rounds,
        "seconds": {
            name: {
                "median": statistics.median(values),
                "best": min(values),
                "worst": max(values),
            }
            for name, values in seconds.items()
        },
        "imports": {
            "atdm request, leased": imports(request, environment),
            "atdm request, materialised": imports(
                commands["atdm request, materialised"], environment
            ),
        },
    }


def run(command: list[str], environment: Mapping[str, str]) -> str:
    """Run a command that must succeed; what it printed."""
    done = subprocess.run(
        command, env=dict(environment), capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    return done.stdout


def imports(command: list[str], environment: Mapping[str, str]) -> dict[str, Any]:
    """Milliseconds of importing, by top package, of one run under -X importtime (itself slower)."""
    done = subprocess.run(
        [PYTHON, "-X", "importtime", *command],
        env=dict(environment),
        capture_output=True,
        text=True,
        check=True,
    )
    own: Counter[str] = Counter()
    for line in done.stderr.splitlines():
        found = IMPORT_LINE.match(line)
        if found:
            own[found[3].partition(".")[0]] += int(found[1])
    return {
        "total_ms": round(sum(own.values()) / 1000, 1),
        "by_package_ms": {name: round(spent / 1000, 1) for name, spent in own.most_common(12)},
    }


def report(figures: Mapping[str, Any]) -> None:
    """Print the figures beside their targets and ratios to a bare Python."""
    seconds = figures["seconds"]
    bare = seconds["python -c pass"]["median"]
    dagster = seconds['python -c "import dagster"']["median"]
    machine = figures["machine"]
    load = ", ".join(f"{value:.1f}" for value in machine["load"])
    print(f"Python {machine['python']}, {machine['processors']} processors, load {load}")
    print(f"{'command':<30}{'median s':>10}{'best s':>9}{'x bare':>9}{'x dagster':>11}  target")
    for name, values in seconds.items():
        target = TARGET_SECONDS.get(name)
        verdict = ""
        if target is not None:
            verdict = f"{target} s: {'met' if values['median'] <= target else 'missed'}"
        print(
            f"{name:<30}{values['median']:>10.3f}{values['best']:>9.3f}"
            f"{values['median'] / bare:>9.1f}{values['median'] / dagster:>11.2f}  {verdict}"
        )
    for name, spent in figures["imports"].items():
        print(f"\nimports of {name}: {spent['total_ms']:.0f} ms under -X importtime")
        for package, milliseconds in spent["by_package_ms"].items():
            print(f"  {milliseconds:>8.1f} ms  {package}")


if __name__ == "__main__":
    raise SystemExit(main())
