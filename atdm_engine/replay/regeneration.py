"""A test run made again from its specification, and whether it is what it was."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from atdm_engine.bundle.version import changes, version_parts
from atdm_engine.checks.results import CheckOutcome, Verdict, verdict
from atdm_engine.checks.validator import Validator
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_engine.generation.batches import batches, generate, runs_per_batch
from atdm_engine.generation.request import RequestSpec, Scenarios, resolve
from atdm_engine.hashing.content import ContentHash, combined
from atdm_engine.progress import Progress
from atdm_engine.random.run_ids import run_id
from atdm_engine.replay.spec import ReplaySpec
from atdm_engine.values.scalars import scalar_json, scalar_text

_SHOWN = 12


@dataclass(frozen=True)
class RegeneratedRun:
    """The rows of run ``number`` and their hashes by table; ``content_hash`` is that of the run."""

    spec: RequestSpec
    number: int
    tables: Mapping[str, pa.Table]
    hashes: Mapping[str, str]

    @property
    def test_run_id(self) -> str:
        return run_id(self.spec.request_id, self.number)

    @property
    def content_hash(self) -> str:
        return combined(self.hashes)


@dataclass(frozen=True)
class Judgement:
    """What the checks said of a run, or of a whole request."""

    outcomes: tuple[CheckOutcome, ...]
    verdict: Verdict


def recorded_request(registry: Scenarios, original: ReplaySpec) -> RequestSpec:
    """The request as it was recorded, resolved against the specification files there are now.

    Raises:
        AtdmError: REQUEST_CONFLICT naming what changed since (``details``: changes, and in hint the
            command that makes the request from the files of now); SCENARIO_NOT_FOUND.
    """
    scenario = registry.scenario(original.scenario)
    domain = registry.domains[scenario.domain]
    if scenario.version != original.scenario_version:
        now = version_parts(domain, scenario)
        found = [str(one) for one in changes(original.parts, now)] if original.parts else []
        if original.parts.get("engine", now["engine"]) != now["engine"]:
            found[0] = f"engine changed from version {original.parts['engine']} to {now['engine']}"
        raise _changed(original, scenario.version, found)
    spec = resolve(
        registry,
        original.scenario,
        original.given,
        runs=original.runs,
        seed=original.seed,
        as_of=original.as_of,
        request_id=original.request_id,
        number_base=original.number_base,
    )
    effective = {
        name: (scalar_json(value), original.effective.get(name))
        for name, value in spec.effective.items()
        if not _same(spec, name, original.effective.get(name))
    }
    if effective:
        raise _changed(
            original,
            scenario.version,
            [f"constraint {name} is {now}, was {was}" for name, (now, was) in effective.items()],
        )
    return spec


def _same(spec: RequestSpec, name: str, recorded: Any) -> bool:
    try:
        return bool(spec.scenario.constraints[name].parse(recorded) == spec.effective[name])
    except ValueError:
        return False


def _changed(original: ReplaySpec, version: str, found: list[str]) -> AtdmError:
    shown = ", ".join(found[:_SHOWN]) + (f" and {len(found) - _SHOWN} more" * (len(found) > _SHOWN))
    what = shown or "what changed was not recorded at that time"
    return AtdmError(
        ErrorCode.REQUEST_CONFLICT,
        f"test run {original.test_run_id} cannot be made again: {original.scenario} is not what it "
        f"was ({what})",
        {
            "test_run_id": original.test_run_id,
            "changes": found,
            "recorded_version": original.scenario_version,
            "version": version,
            "hint": "Check out the files of that time, or make the request from those of now, under"
            f" a new id: {same_request(original)}",
        },
    )


def same_request(original: ReplaySpec) -> str:
    """The command that asks for the same values from whatever the files say now."""
    words = ["atdm", "request", original.scenario]
    for name, value in original.given.items():
        words += ["-c", f"{name}={scalar_text(value)}"]
    words += ["--seed", str(original.seed), "--as-of", original.as_of.isoformat()]
    if original.run_number > 1:
        words += ["--runs", str(original.run_number)]
    return shlex.join(words)


def regenerate_run(spec: RequestSpec, number: int) -> RegeneratedRun:
    """The rows of run ``number`` alone: batches do not matter, so they are what they were."""
    tables = generate(spec, number, number)
    hashes = {}
    for table, rows in tables.items():
        digest = ContentHash(spec.domain, table, spec.request_id, spec.number_base)
        digest.add(rows)
        hashes[table] = digest.hexdigest()
    return RegeneratedRun(spec, number, tables, hashes)


def judge_run(made: RegeneratedRun) -> Judgement:
    """Every check of the scenario over one run's rows, as before each publication."""
    validator = Validator(made.spec.domain, made.spec.scenario, made.spec.effective)
    validator.check(made.tables)
    outcomes = tuple(validator.outcomes())
    return Judgement(outcomes, verdict(made.spec.scenario, outcomes))


def judge_request(spec: RequestSpec, progress: Progress | None = None) -> Judgement:
    """Every check over all runs of a request, which is how a rejected one was judged."""
    validator = Validator(spec.domain, spec.scenario, spec.effective)
    step = runs_per_batch(spec)
    for number, batch in enumerate(batches(spec, step), start=1):
        validator.check(batch)
        if progress is not None:
            progress("checked", min(number * step, spec.runs), spec.runs)
    outcomes = tuple(validator.outcomes())
    return Judgement(outcomes, verdict(spec.scenario, outcomes))


def prove(original: ReplaySpec, spec: RequestSpec, progress: Progress | None = None) -> None:
    """Make the whole request in memory and compare its hash with the recorded one.

    Raises:
        AtdmError: REQUEST_CONFLICT naming the tables whose rows are not what they were, although
            no version changed.
    """
    digests = {
        table: ContentHash(spec.domain, table, spec.request_id, spec.number_base)
        for table in spec.scenario.tables
    }
    step = runs_per_batch(spec)
    for number, batch in enumerate(batches(spec, step), start=1):
        for table, rows in batch.items():
            digests[table].add(rows)
        if progress is not None:
            progress("compared", min(number * step, spec.runs), spec.runs)
    hashes = {table: digest.hexdigest() for table, digest in digests.items()}
    now = combined(hashes)
    if now == original.content_hash:
        return
    differing = sorted(
        table
        for table in hashes.keys() | original.tables.keys()
        if hashes.get(table) != original.tables.get(table)
    )
    named = ", ".join(differing) or "the list of tables"
    raise AtdmError(
        ErrorCode.REQUEST_CONFLICT,
        f"test run {original.test_run_id} cannot be made again: the same scenario and engine "
        f"versions make other rows here ({named})",
        {
            "test_run_id": original.test_run_id,
            "tables": differing,
            "recorded_content_hash": original.content_hash,
            "content_hash": now,
            "hint": "Compare the installed packages (pyarrow, numpy) with those of that time, or "
            f"ask for new data: {same_request(original)}",
        },
    )
