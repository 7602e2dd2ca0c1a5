"""A Dagster webserver: launch a job, wait for its run, read the events of the run.

Importing it loads httpx: only a client with a webserver's URL does.
"""

from __future__ import annotations

import ipaddress
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx

from atdm_engine.errors import AtdmError, ErrorCode
from atdm_resources.telemetry.redaction import redact_url

_DONE = frozenset({"SUCCESS", "FAILURE", "CANCELED"})
_FIRST_POLL_SECONDS = 0.1
_LONGEST_POLL_SECONDS = 2.0
_GRACE_SECONDS = 10.0
"""Seconds that a webserver may be unreachable while a run is waited for."""

_LOCATIONS = """{ workspaceOrError { __typename ... on PythonError { message }
  ... on Workspace { locationEntries { name locationOrLoadError { __typename
    ... on PythonError { message }
    ... on RepositoryLocation { repositories { name jobs { name } } } } } } } }"""
_LAUNCH = """mutation($params: ExecutionParams!) { launchRun(executionParams: $params) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on Error { message }
  ... on RunConfigValidationInvalid { errors { message } } } }"""
_STATUS = """query($id: ID!) { runOrError(runId: $id) { __typename
  ... on Run { status } ... on Error { message } } }"""
_METADATA = """metadataEntries { label
  ... on TextMetadataEntry { text } ... on IntMetadataEntry { intRepr }
  ... on FloatMetadataEntry { floatValue } ... on BoolMetadataEntry { boolValue }
  ... on JsonMetadataEntry { jsonString } ... on UrlMetadataEntry { url }
  ... on PathMetadataEntry { path } ... on TableMetadataEntry { table { records } } }"""
_EVENTS = f"""query($id: ID!, $after: String) {{ runOrError(runId: $id) {{ __typename
  ... on Error {{ message }}
  ... on Run {{ status jobName tags {{ key value }}
    eventConnection(afterCursor: $after) {{ cursor hasMore events {{ __typename
      ... on MaterializationEvent {{ assetKey {{ path }} partition {_METADATA} }}
      ... on ObservationEvent {{ assetKey {{ path }} partition {_METADATA} }}
      ... on AssetCheckEvaluationEvent {{ evaluation {{ checkName {_METADATA} }} }}
      ... on ExecutionStepFailureEvent {{ error {{ message }}
        failureMetadata {{ description {_METADATA} }} }}
      ... on RunFailureEvent {{ message error {{ message }} }}
      ... on RunCanceledEvent {{ message }} }} }} }} }} }}"""
_CHILDREN = """query($filter: RunsFilter!) { runsOrError(filter: $filter) { __typename
  ... on Error { message } ... on Runs { results { runId } } } }"""
_ASSETS = "{ assetNodes { assetKey { path } } }"


@dataclass(frozen=True, slots=True)
class AssetEvent:
    """A materialisation or an observation of a run, with metadata as plain values."""

    key: tuple[str, ...]
    partition: str | None
    metadata: dict[str, Any]


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """An ended run and its events. ``error`` is the reason of a failure."""

    run_id: str
    status: str
    tags: dict[str, str]
    materialised: list[AssetEvent] = field(default_factory=list)
    observed: list[AssetEvent] = field(default_factory=list)
    checks: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    error: AtdmError | None = None


class DagsterWebserver:
    """The webserver at ``url``.

    Args:
        url: its address, as in a browser; a path prefix is kept.
        headers: sent with every request, for an authenticating proxy.
        timeout: seconds that one request may take.
        code_location: the code location with the jobs; needed only if several have them.
    """

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        timeout: float = 30.0,
        code_location: str | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.place = redact_url(url.rstrip("/"))
        self._code_location = code_location
        self._http = httpx.Client(
            base_url=f"{url.rstrip('/')}/",
            headers=dict(headers or {}),
            timeout=timeout,
            follow_redirects=False,
            # A proxy of the environment is not used for addresses of this machine.
            trust_env=not _is_this_machine(url),
            transport=transport,
        )

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def run(
        self, job: str, config: Mapping[str, Any], tags: Mapping[str, str], *, timeout: float
    ) -> FinishedRun:
        """Launch ``job`` and wait for its end, at most ``timeout`` seconds.

        Raises:
            AtdmError: DAGSTER_UNREACHABLE; DAGSTER_RUN_FAILED if the run was refused, failed
                without an error code of ATDM, was cancelled or still runs; else the error that
                the run reported.
        """
        run_id = self._launched(job, config, tags)
        self._wait(job, run_id, timeout)
        finished = self.finished(run_id)
        if finished.error is not None:
            raise finished.error
        return finished

    def finished(self, run_id: str) -> FinishedRun:
        """The events of an ended run."""
        events: list[dict[str, Any]] = []
        cursor = None
        while True:
            run = self._named("runOrError", "Run", _EVENTS, id=run_id, after=cursor)
            page = run["eventConnection"]
            events += page["events"]
            if not page["hasMore"]:
                break
            cursor = page["cursor"]
        error = None if run["status"] == "SUCCESS" else _error_in(events, run["jobName"], run_id)
        return FinishedRun(
            run_id=run_id,
            status=run["status"],
            tags={tag["key"]: tag["value"] for tag in run["tags"]},
            materialised=_asset_events(events, "MaterializationEvent"),
            observed=_asset_events(events, "ObservationEvent"),
            checks=[
                (event["evaluation"]["checkName"], _values(event["evaluation"]))
                for event in events
                if event["__typename"] == "AssetCheckEvaluationEvent"
            ],
            error=error,
        )

    def runs_tagged(self, key: str, value: str) -> list[str]:
        """The ids of the runs with a tag."""
        wanted = {"tags": [{"key": key, "value": value}]}
        found = self._named("runsOrError", "Runs", _CHILDREN, filter=wanted)
        return [run["runId"] for run in found["results"]]

    def asset_keys(self) -> list[tuple[str, ...]]:
        """The keys of every asset of every code location."""
        nodes = self._answer(_ASSETS)["assetNodes"]
        return [tuple(node["assetKey"]["path"]) for node in nodes]

    def _launched(self, job: str, config: Mapping[str, Any], tags: Mapping[str, str]) -> str:
        location, repository = self._home_of(job)
        params = {
            "selector": {
                "repositoryLocationName": location,
                "repositoryName": repository,
                "jobName": job,
            },
            "runConfigData": config,
            "executionMetadata": {
                "tags": [{"key": key, "value": value} for key, value in tags.items()]
            },
        }
        answer = self._answer(_LAUNCH, params=params)["launchRun"]
        if answer["__typename"] == "LaunchRunSuccess":
            return str(answer["run"]["runId"])
        errors = answer.get("errors") or [answer]
        reasons = [error["message"] for error in errors if "message" in error]
        raise AtdmError(
            ErrorCode.DAGSTER_RUN_FAILED,
            f"{self.place} did not launch job {job} ({answer['__typename']}): {'; '.join(reasons)}",
            {
                "job": job,
                "reason": answer["__typename"],
                "hint": "A read-only webserver launches no jobs: name another one."
                if answer["__typename"] == "UnauthorizedError"
                else "Client and code location may be of different versions of ATDM.",
            },
        )

    def _home_of(self, job: str) -> tuple[str, str]:
        """The code location and the repository that have ``job``."""
        entries = self._named("workspaceOrError", "Workspace", _LOCATIONS)["locationEntries"]
        if self._code_location is not None:
            known = [entry["name"] for entry in entries]
            entries = [entry for entry in entries if entry["name"] == self._code_location]
            if not entries:
                raise self._unreachable(
                    f"{self.place} has no code location {self._code_location!r}; "
                    f"known: {', '.join(known) or 'none'}",
                    "Correct code_location.",
                )
        homes, broken = [], []
        for entry in entries:
            loaded = entry["locationOrLoadError"] or {"__typename": "PythonError", "message": ""}
            if loaded["__typename"] == "PythonError":
                broken.append(f"{entry['name']}: {loaded['message'].strip() or 'still loading'}")
            homes += [
                (entry["name"], repository["name"])
                for repository in loaded.get("repositories", ())
                if any(known["name"] == job for known in repository["jobs"])
            ]
        if len(homes) == 1:
            return homes[0]
        if homes:
            raise self._unreachable(
                f"several code locations of {self.place} have a job {job}: "
                f"{', '.join(location for location, _ in homes)}",
                "Name one: AtdmClient(..., code_location=NAME).",
            )
        if broken:
            raise self._unreachable(
                f"a code location of {self.place} does not load:\n" + "\n".join(broken),
                "Correct it, then reload it on the page Deployment of the web interface.",
            )
        raise self._unreachable(
            f"no code location of {self.place} has a job {job}",
            "Is it the webserver of ATDM? `atdm status` names the one of this machine.",
        )

    def _wait(self, job: str, run_id: str, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        pause = _FIRST_POLL_SECONDS
        answered = time.monotonic()
        status = "STARTING"
        while True:
            try:
                status = self._named("runOrError", "Run", _STATUS, id=run_id)["status"]
                answered = time.monotonic()
            except AtdmError as error:
                # A restarted webserver answers again in seconds; the run does not depend on it.
                if (
                    error.code is not ErrorCode.DAGSTER_UNREACHABLE
                    or time.monotonic() - answered > _GRACE_SECONDS
                ):
                    raise
            if status in _DONE:
                return
            if time.monotonic() + pause > deadline:
                raise AtdmError(
                    ErrorCode.DAGSTER_RUN_FAILED,
                    f"run {run_id} of job {job} is {status} after {timeout:g} s; it continues",
                    {
                        "dagster_run_id": run_id,
                        "status": status,
                        "hint": "Does the daemon run? A queued run waits for it."
                        if status == "QUEUED"
                        else f"Open {self.place}/runs/{run_id}, or raise run_timeout.",
                    },
                )
            time.sleep(pause)
            pause = min(pause * 1.5, _LONGEST_POLL_SECONDS)

    def _named(self, field_name: str, wanted: str, query: str, **variables: Any) -> dict[str, Any]:
        """A field of the answer, which has the type ``wanted`` or is an error."""
        found: dict[str, Any] = self._answer(query, **variables)[field_name]
        if found["__typename"] != wanted:
            raise self._unreachable(
                f"{self.place} answered {found['__typename']}: {found.get('message', '')}".strip(),
                "See its log.",
            )
        return found

    def _answer(self, query: str, **variables: Any) -> dict[str, Any]:
        try:
            answer = self._http.post("graphql", json={"query": query, "variables": variables})
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._unreachable(
                f"cannot reach the Dagster webserver {self.place}: {error or type(error).__name__}",
                "Does it run? `atdm up` starts one, `atdm status` prints its address.",
            ) from error
        if answer.is_success:
            try:
                told = answer.json()
                data: dict[str, Any] | None = told.get("data")
                errors = told.get("errors")
            except (ValueError, AttributeError):
                data, errors = None, None
            if data is not None and not errors:
                return data
            reason = "; ".join(str(item.get("message")) for item in errors or [])
            raise self._unreachable(
                f"{self.place} does not answer as a Dagster webserver"
                + (f": {reason}" if reason else ""),
                "Check the URL: it is the one for a browser.",
                answer.status_code,
            )
        hint = {
            401: "Its proxy needs a login: AtdmClient(..., headers={'Authorization': ...}).",
            403: "Its proxy refuses this user.",
            405: "Check the URL: it is the one for a browser.",
            404: "Check the URL: it is the one for a browser, with its path.",
        }.get(answer.status_code, "See its log.")
        where = answer.headers.get("location")
        raise self._unreachable(
            f"{self.place} answered {answer.status_code} {answer.reason_phrase}"
            + (f", to {redact_url(where)}" if where else ""),
            hint,
            answer.status_code,
        )

    def _unreachable(self, message: str, hint: str, status_code: int | None = None) -> AtdmError:
        details: dict[str, Any] = {"url": self.place, "hint": hint}
        if status_code is not None:
            details["status_code"] = status_code
        return AtdmError(ErrorCode.DAGSTER_UNREACHABLE, message, details)


def _error_in(events: list[dict[str, Any]], job: str, run_id: str) -> AtdmError:
    """Why a run failed: the error of ATDM that a step reported, else Dagster's message."""
    message = "no reason was recorded"
    for event in events:
        if event["__typename"] == "ExecutionStepFailureEvent":
            given = event["failureMetadata"]
            values = _values(given) if given else {}
            if values.get("error_code") in set(ErrorCode):
                details = values.get("error_details")
                return AtdmError(
                    ErrorCode(values["error_code"]),
                    given["description"] or "",
                    {
                        **(details if isinstance(details, dict) else {}),
                        "dagster_run_id": run_id,
                    },
                )
            if event["error"]:
                message = event["error"]["message"].strip()
                break
        elif event["__typename"] in ("RunFailureEvent", "RunCanceledEvent"):
            error = event.get("error")
            message = (error["message"] if error else event["message"]).strip() or message
    return AtdmError(
        ErrorCode.DAGSTER_RUN_FAILED,
        f"run {run_id} of job {job} failed: {message}",
        {"dagster_run_id": run_id, "job": job},
    )


def _asset_events(events: list[dict[str, Any]], kind: str) -> list[AssetEvent]:
    return [
        AssetEvent(tuple(event["assetKey"]["path"]), event["partition"], _values(event))
        for event in events
        if event["__typename"] == kind
    ]


def _values(holder: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata entries as plain values by label."""
    return {entry["label"]: _value(entry) for entry in holder["metadataEntries"]}


def _value(entry: Mapping[str, Any]) -> Any:
    if "jsonString" in entry:
        return json.loads(entry["jsonString"])
    if "table" in entry:
        return [json.loads(record) for record in entry["table"]["records"]]
    if "intRepr" in entry:
        return int(entry["intRepr"])
    return next((value for name, value in entry.items() if name != "label"), None)


def _is_this_machine(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
