"""Requests, resets and baselines through the jobs of a Dagster webserver."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from atdm.client.graphql import DagsterWebserver, FinishedRun
from atdm_engine.errors import AtdmError, ErrorCode
from atdm_services.requests import request as requests

if TYPE_CHECKING:
    import psycopg

    from atdm_resources.settings import Settings
    from atdm_services.requests.request import LeaseRequest

# Names of the code location. A client without Dagster cannot import them.
REQUEST_ID_TAG = "atdm/request_id"
INVOKER_TAG = "atdm/invoker"
SOURCE_TAG = "atdm/source"
PARENT_TAG = "atdm/parent_run"
REQUEST_ASSET = "request"
TEST_RUNS_ASSET = "test_runs"
JOBS: Mapping[str, str] = {
    "request_data": "request",
    "reset_all": "reset_all_rows",
    "snapshot_baseline": "snapshot",
    "restore_baseline": "restore",
}
"""The jobs, and the op of each that takes the config."""

_REASON = "requested by a client"


@dataclass(frozen=True, slots=True)
class Made:
    """A request that a run made. ``violates``: the rules that it breaks on purpose."""

    request_id: str
    domain: str
    scenario: str
    violates: tuple[str, ...]
    dagster_run_id: str


@dataclass(frozen=True)
class RemoteRuns:
    """The jobs of one webserver. ``timeout``: seconds that a run may take."""

    webserver: DagsterWebserver
    invoker: str
    source: str
    timeout: float

    def close(self) -> None:
        """Close the connection to the webserver."""
        self.webserver.close()

    def request(
        self,
        settings: Settings,
        connection: Callable[[], psycopg.Connection[Any]],
        request: LeaseRequest,
    ) -> dict[str, Any]:
        """Lease ready runs, or make runs by ``request_data`` and lease them.

        ``connection`` opens the connection for leases; it is called before anything is made.
        """
        requests.refuse_language_model(settings)
        if not request.pooled:
            opened = connection()
            if request.may_come_from_a_pool:
                try:
                    return requests.from_pool(opened, request)
                except AtdmError as error:
                    if error.code not in requests.MADE_WHEN:
                        raise
        made = self._made(request)
        if made.violates:
            return requests.rejected_as_expected(
                made.request_id, made.domain, made.scenario, made.violates
            )
        if request.pooled:
            return requests.left_ready(made.request_id, made.domain, made.scenario, request.runs)
        try:
            return requests.of_request(opened, made.request_id, request)
        except AtdmError as error:
            if error.code is ErrorCode.RUN_NOT_FOUND:
                error.details["hint"] = (
                    f"{self.webserver.place} made it in its own target; is database_url the "
                    "same database?"
                )
            raise

    def reset_all(self, *, confirm: bool, revoke_leases: bool) -> dict[str, Any]:
        """Job ``reset_all`` for every domain."""
        if not confirm:
            raise AtdmError(
                ErrorCode.CONFIRM_REQUIRED,
                "this deletes the rows of every test run of every domain: confirm it",
            )
        domains = [
            key[0]
            for key in self.webserver.asset_keys()
            if len(key) == 2 and key[1] == TEST_RUNS_ASSET
        ]
        done: dict[str, dict[str, Any]] = {}
        for domain in domains:
            config = {
                "domain": domain,
                "reason": _REASON,
                "confirm": "yes",
                "revoke_leases": revoke_leases,
            }
            done[domain] = self._run("reset_all", config).observed[-1].metadata
        return {
            "status": "cleaned",
            "deleted": {domain: _deleted(told) for domain, told in done.items()},
            "adopted": {domain: told["adopted"] for domain, told in done.items()},
            "cleared_record_count": sum(told["test_runs"] for told in done.values()),
            "revoked": [owner for told in done.values() for owner in told["revoked"] or ()],
        }

    def snapshot(
        self, baseline_id: str | None, *, domain: str | None, reason: str
    ) -> dict[str, Any]:
        """Job ``snapshot_baseline``: the summary of the baseline."""
        config = {"baseline_id": baseline_id, "domain": domain, "reason": reason}
        finished = self._run("snapshot_baseline", config)
        (captured,) = self._child(finished).materialised
        told = captured.metadata
        return {
            "baseline_id": captured.partition,
            "domain": captured.key[0],
            "status": "captured",
            "tables": {table["table"]: table["rows"] for table in told["tables"]},
            "rows": told["dagster/row_count"],
            **{
                name: told.get(name)
                for name in (
                    "kind",
                    "captured_at",
                    "captured_by",
                    "reason",
                    "format_version",
                    "engine_version",
                    "postgres_version",
                    "bytes",
                    "runs",
                    "content_hash",
                )
            },
        }

    def restore(
        self, baseline_id: str | None, *, domain: str | None, revoke_leases: bool, reason: str
    ) -> dict[str, Any]:
        """Job ``restore_baseline``: the restored rows."""
        config = {
            "baseline_id": baseline_id,
            "domain": domain,
            "revoke_leases": revoke_leases,
            "reason": reason,
        }
        (restored,) = self._run("restore_baseline", config).observed
        told = restored.metadata
        return {
            "baseline_id": restored.partition,
            "domain": restored.key[0],
            "status": "restored",
            "runs": {name: told[f"runs_{name}"] for name in ("ready", "cleaned", "expired")},
            **{
                name: told.get(name)
                for name in (
                    "content_hash",
                    "tables",
                    "rows",
                    "revoked",
                    "outside_references",
                    "seconds",
                )
            },
        }

    def _made(self, request: LeaseRequest) -> Made:
        finished = self._run("request_data", request.config())
        child = self._child(finished)
        asset = next(made for made in child.materialised if made.key[-1] == REQUEST_ASSET)
        return Made(
            request_id=finished.tags[REQUEST_ID_TAG],
            domain=asset.key[0],
            scenario=asset.key[1],
            violates=tuple(
                name.replace("__", ".")
                for name, told in child.checks
                if told.get("expected_violation")
            ),
            dagster_run_id=child.run_id,
        )

    def _run(self, job: str, config: Mapping[str, Any]) -> FinishedRun:
        given = {name: value for name, value in config.items() if value is not None}
        return self.webserver.run(
            job,
            {"ops": {JOBS[job]: {"config": {**given, "invoker": self.invoker}}}},
            {INVOKER_TAG: self.invoker, SOURCE_TAG: self.source},
            timeout=self.timeout,
        )

    def _child(self, finished: FinishedRun) -> FinishedRun:
        """The run that a job started in its process, with the events of the assets."""
        (child,) = self.webserver.runs_tagged(PARENT_TAG, finished.run_id)
        return self.webserver.finished(child)


def _deleted(told: Mapping[str, Any]) -> dict[str, int]:
    return {
        name.removeprefix("deleted/"): rows
        for name, rows in told.items()
        if name.startswith("deleted/")
    }
