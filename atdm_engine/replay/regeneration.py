"""Making a recorded test run again, and whether the rows equal the recorded ones."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from atdm_engine.bundle.registry import Registry
from atdm_engine.bundle.version import changes, version_parts
from atdm_engine.checks.results import CheckOutcome, Verdict, verdict
from atdm_engine.checks.validator import Validator
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_engine.generation.batches import batches, generate, runs_per_batch
from atdm_engine.generation.request import RequestSpec, resolve
from atdm_engine.hashing.content import ContentHash, combined
from atdm_engine.progress import Progress
from atdm_engine.random.run_ids import run_id
from atdm_engine.replay.spec import ReplaySpec
from atdm_engine.values.scalars import scalar_json, scalar_text

_SHOWN = 12


@dataclass(frozen=True)
class RegeneratedRun:
    """The rows of run ``number`` and the content hash of each table."""

    spec: RequestSpec
    number: int
    tables: Mapping[str, pa.Table]
    hashes: Mapping[str, str]

    @property
    def test_run_id(self) -> str:
        """The id of the run, which is the recorded one."""
        return run_id(self.spec.request_id, self.number)

    @property
    def content_hash(self) -> str:
        """The content hash of the run: all tables together."""
        return combined(self.hashes)


@dataclass(frozen=True)
class Judgement:
    """The outcomes of all checks over a run, or over a whole request."""

    outcomes: tuple[CheckOutcome, ...]
    verdict: Verdict


def recorded_request(registry: Registry, original: ReplaySpec) -> RequestSpec:
    """The recorded request, resolved with the specification files of today.

    Raises:
        AtdmError: REQUEST_CONFLICT if they changed (``details``: ``changes``, and in ``hint`` the
            command that makes the request from today's files); SCENARIO_NOT_FOUND.
    """
    domain, scenario = registry.find(original.scenario)
    if scenario.version != original.scenario_version:
        now = version_parts(domain, scenario)
        found = [str(one) for one in changes(original.parts, now)] if original.parts else []
        if original.parts.get("engine", now["engine"]) != now["engine"]:
            found[0] = f"engine changed from version {original.parts['engine']} to {now['engine']}"
        raise _changed(original, scenario.version, found)
    spec = resolve(
        domain,
        scenario,
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
            f" a new id: {_request_command(original)}",
        },
    )


def _request_command(original: ReplaySpec) -> str:
    """The command that requests the same values from the files of today."""
    words = ["atdm", "request", original.scenario]
    for name, value in original.given.items():
        words += ["-c", f"{name}={scalar_text(value)}"]
    words += ["--seed", str(original.seed), "--as-of", original.as_of.isoformat()]
    if original.run_number > 1:
        words += ["--runs", str(original.run_number)]
    return shlex.join(words)


def regenerate_run(spec: RequestSpec, number: int) -> RegeneratedRun:
    """The rows of run ``number``, made without the other runs of the request."""
    tables = generate(spec, number, number)
    return RegeneratedRun(spec, number, tables, _content_hashes(spec, [tables]))


def judge_run(made: RegeneratedRun) -> Judgement:
    """Every check of the scenario over the rows of one run."""
    return _judgement(made.spec, [made.tables])


def judge_request(spec: RequestSpec, progress: Progress | None = None) -> Judgement:
    """Every check over all runs of a request, as when the request was made."""
    return _judgement(spec, _reported(spec, "checked", progress))


def prove(original: ReplaySpec, spec: RequestSpec, progress: Progress | None = None) -> None:
    """Make the whole request in memory and compare its hash with the recorded one.

    Raises:
        AtdmError: REQUEST_CONFLICT naming the tables whose rows differ although no version changed.
    """
    hashes = _content_hashes(spec, _reported(spec, "compared", progress))
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
            f"ask for new data: {_request_command(original)}",
        },
    )


def _reported(
    spec: RequestSpec, step: str, progress: Progress | None
) -> Iterator[dict[str, pa.Table]]:
    """All batches of a request; each is reported as done when the next one is asked for."""
    runs = runs_per_batch(spec)
    for number, batch in enumerate(batches(spec, runs), start=1):
        yield batch
        if progress is not None:
            progress(step, min(number * runs, spec.runs), spec.runs)


def _judgement(spec: RequestSpec, made: Iterable[Mapping[str, pa.Table]]) -> Judgement:
    validator = Validator(spec.domain, spec.scenario, spec.effective)
    for batch in made:
        validator.check(batch)
    outcomes = tuple(validator.outcomes())
    return Judgement(outcomes, verdict(spec.scenario, outcomes))


def _content_hashes(spec: RequestSpec, made: Iterable[Mapping[str, pa.Table]]) -> dict[str, str]:
    """The content hash of each table over all batches."""
    digests = {
        table: ContentHash(spec.domain, table, spec.request_id, spec.number_base)
        for table in spec.scenario.tables
    }
    for batch in made:
        for table, rows in batch.items():
            digests[table].add(rows)
    return {table: digest.hexdigest() for table, digest in digests.items()}
