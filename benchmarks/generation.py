"""How fast rows are made: generate, validate and write a healthcare scenario, against a Faker loop.

The two sides make the same five rows a test run. ATDM's side makes them as Arrow tables, runs every
pandera check and rule over them and writes them as Parquet; the Faker loop only builds them as
dicts. Content hash and column profile are timed beside it. For one core: ``taskset -c 0 python
benchmarks/generation.py --runs 1000000``.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from faker import Faker

from atdm_engine.bundle.registry import Registry
from atdm_engine.checks.profile import ColumnProfile
from atdm_engine.checks.results import verdict
from atdm_engine.checks.validator import Validator
from atdm_engine.generation.batches import batches, runs_per_batch
from atdm_engine.generation.request import RequestSpec, resolve
from atdm_engine.hashing.content import ContentHash, combined
from atdm_resources.store.bundle import read_bundle, shipped_root
from atdm_resources.store.files import Store
from atdm_resources.store.parquet import ParquetWriter, parquet_writer

SCENARIO = "claim_denial_active_member"
REQUEST = "01K0ABCDEF0123456789000000"
AS_OF = datetime(2026, 6, 1, 12, tzinfo=UTC)
TARGET_ROWS = 500_000
TARGET_RATIO = 100
TARGET_MEMORY = 1024
PLANS = ("Bronze Health Plan", "Silver Health Plan", "Gold Health Plan", "Platinum Health Plan")
PIPELINE = ("generate", "validate", "Parquet")


class Clock:
    """Seconds by name, on the wall and of the processor; these differ on a busy machine."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.processor: dict[str, float] = defaultdict(float)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        started, worked = time.perf_counter(), time.process_time()
        yield
        self.seconds[name] += time.perf_counter() - started
        self.processor[name] += time.process_time() - worked

    def pipeline(self) -> tuple[float, float]:
        """Wall and processor seconds of what counts."""
        return (
            sum(self.seconds[name] for name in PIPELINE),
            sum(self.processor[name] for name in PIPELINE),
        )


def make_rows(spec: RequestSpec, batch_runs: int, folder: str) -> tuple[Clock, dict[str, int], str]:
    """Everything that happens to a request's rows before they are loaded."""
    clock = Clock()
    counts = {"rows": 0, "values": 0, "bytes": 0}
    validator = Validator(spec.domain, spec.scenario, spec.effective)
    store = Store(f"file://{folder}")
    hashes = {name: ContentHash(spec.domain, name, REQUEST) for name in spec.scenario.tables}
    profiles = {name: ColumnProfile(spec.domain.tables[name]) for name in spec.scenario.tables}
    writers: dict[str, ParquetWriter] = {}
    with ExitStack() as stack:
        source = batches(spec, batch_runs)
        while True:
            with clock.timed("generate"):
                batch = next(source, None)
            if batch is None:
                break
            with clock.timed("validate"):
                validator.check(batch)
            for name, table in batch.items():
                counts["rows"] += table.num_rows
                counts["values"] += table.num_rows * table.num_columns
                with clock.timed("Parquet"):
                    if name not in writers:
                        opened = parquet_writer(store, f"{name}.parquet", table.schema)
                        writers[name] = stack.enter_context(opened)
                    writers[name].write(table)
                with clock.timed("content hash"):
                    hashes[name].add(table)
                with clock.timed("profile"):
                    profiles[name].add(table)
        with clock.timed("validate"):
            outcomes = validator.outcomes()
            judgement = verdict(spec.scenario, outcomes)
        with clock.timed("Parquet"):
            stack.close()
    if not judgement.accepted:
        raise SystemExit(f"the rows were rejected: {judgement.failed}")
    counts["bytes"] = sum(writer.bytes for writer in writers.values())
    return clock, counts, combined({name: one.hexdigest() for name, one in hashes.items()})


def faker_rows(fake: Faker, number: int) -> list[dict[str, Any]]:
    """The same five rows by hand, every random value from Faker, as its users write them."""
    run = f"01K0ABCDEF0123456789{number:06d}"
    today = AS_OF.date()
    start = fake.date_between(today - timedelta(days=240), today - timedelta(days=120))
    return [
        {
            "plan_id": f"plan-{run}",
            "name": "FAKE_" + fake.random_element(PLANS),
            "coverage_type": fake.random_element(("hmo", "ppo", "epo", "pos")),
            "effective_date": fake.date_between(
                today - timedelta(days=2190), today - timedelta(days=800)
            ),
            "test_run_id": run,
        },
        {
            "provider_id": f"prov-{run}",
            "name": f"FAKE_{fake.last_name()} Clinic",
            "network_status": "out_of_network",
            "npi_fake": fake.numerify("##########"),
            "test_run_id": run,
        },
        {
            "member_id": f"m-{run}",
            "status": "active",
            "first_name": f"FAKE_{fake.first_name()}",
            "last_name": f"FAKE_{fake.last_name()}",
            "date_of_birth": fake.date_of_birth(minimum_age=3, maximum_age=95),
            "address_line1": f"FAKE_{fake.street_address()}",
            "address_city": f"FAKE_{fake.city()}",
            "address_state": "ZZ",
            "address_zip": fake.numerify("#####"),
            "plan_id": f"plan-{run}",
            "test_run_id": run,
        },
        {
            "eligibility_id": f"elig-{run}",
            "member_id": f"m-{run}",
            "effective_from": start,
            "effective_to": start + timedelta(days=365),
            "status": "active",
            "test_run_id": run,
        },
        {
            "claim_id": f"claim-{run}",
            "member_id": f"m-{run}",
            "provider_id": f"prov-{run}",
            "procedure_code": "00000",
            "diagnosis_code": "Z00.00",
            "status": "denied",
            "submitted_at": fake.date_time_between(AS_OF - timedelta(days=28), AS_OF, tzinfo=UTC),
            "denial_reason": "invalid_procedure_code",
            "test_run_id": run,
        },
    ]


def faker_rates(seconds: float) -> tuple[float, float]:
    """Rows a second, wall and processor, of the loop; rows are dropped every thousand runs."""
    fake = Faker("en_US")
    fake.seed_instance(1)
    rows = 0
    kept: list[dict[str, Any]] = []
    faker_rows(fake, 0)
    started, worked = time.perf_counter(), time.process_time()
    number = 0
    while time.perf_counter() - started < seconds:
        number += 1
        kept.extend(faker_rows(fake, number))
        if number % 1000 == 0:
            rows += len(kept)
            kept = []
    rows += len(kept)
    return rows / (time.perf_counter() - started), rows / (time.process_time() - worked)


def peak_mebibytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("--batch-runs", type=int, help="default: what a request takes")
    parser.add_argument("--faker-seconds", type=float, default=5.0)
    arguments = parser.parse_args()

    registry = Registry.build(read_bundle([shipped_root()]))
    spec = resolve(
        *registry.find(SCENARIO), {}, runs=arguments.runs, seed=1, as_of=AS_OF, request_id=REQUEST
    )
    batch_runs = arguments.batch_runs or runs_per_batch(spec)
    before = peak_mebibytes()
    with tempfile.TemporaryDirectory() as folder:
        clock, counts, digest = make_rows(spec, batch_runs, folder)
    wall, processor = clock.pipeline()
    rows = counts["rows"]

    cores = len(os.sched_getaffinity(0))
    print(f"{SCENARIO}: {arguments.runs:,} runs, {rows:,} rows, {counts['values']:,} values,")
    print(f"batches of {batch_runs:,} runs, {cores} core(s); s on the wall, s of processor")
    for name, seconds in clock.seconds.items():
        side = "" if name in PIPELINE else "   (beside the pipeline)"
        worked = clock.processor[name]
        print(f"  {name:<13} {seconds:7.2f} {worked:7.2f}  {rows / seconds:12,.0f} rows/s{side}")
    print(f"  {'pipeline':<13} {wall:7.2f} {processor:7.2f}  {rows / wall:12,.0f} rows/s", end="")
    print(f"  {counts['values'] / wall:,.0f} values/s  (target {TARGET_ROWS:,} rows/s)")
    print(f"  Parquet size {counts['bytes'] / 2**20:,.0f} MiB, content hash {digest}")
    print(
        f"  peak memory  {peak_mebibytes():,.0f} MiB, {before:,.0f} MiB of it before the first row"
    )
    print(f"               (target {TARGET_MEMORY:,} MiB)")
    loop, loop_worked = faker_rates(arguments.faker_seconds)
    print(f"Faker loop, dicts alone: {loop:,.0f} rows/s ({loop_worked:,.0f} by processor time)")
    print(
        f"  as many rows take it {rows / loop:,.0f} s, from {arguments.faker_seconds:.0f} s of it"
    )
    print(f"ratio: {rows / wall / loop:,.0f} times the Faker loop,", end=" ")
    print(f"{rows / processor / loop_worked:,.0f} by processor time (target {TARGET_RATIO})")


if __name__ == "__main__":
    main()
