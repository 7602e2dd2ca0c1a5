"""Questions to the Dagster webserver on this machine, over HTTP."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

_LOCATIONS = """{ workspaceOrError { __typename
  ... on PythonError { message }
  ... on Workspace { locationEntries { name loadStatus locationOrLoadError {
    __typename ... on PythonError { message } } } } } }"""


def answers(url: str) -> bool:
    """Whether a webserver answers at ``url``."""
    return _get(f"{url}/server_info") is not None


def load_errors(url: str) -> dict[str, str] | None:
    """Why code locations did not load, by name; None while one is loading, or without an answer."""
    answer = _get(f"{url}/graphql", {"query": _LOCATIONS})
    if answer is None or answer.get("data") is None:
        return None
    workspace = answer["data"]["workspaceOrError"]
    if workspace["__typename"] != "Workspace":
        return {"workspace": workspace.get("message", "")}
    entries = workspace["locationEntries"]
    if any(entry["loadStatus"] != "LOADED" for entry in entries):
        return None
    return {
        entry["name"]: entry["locationOrLoadError"]["message"].strip()
        for entry in entries
        if entry["locationOrLoadError"]["__typename"] == "PythonError"
    }


def _get(address: str, body: dict[str, Any] | None = None) -> dict[str, Any] | None:
    # A proxy in the environment cannot reach this machine's own address.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(
        address,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    try:
        with opener.open(request, timeout=5) as answer:
            found: dict[str, Any] = json.load(answer)
            return found
    except (urllib.error.URLError, OSError, ValueError):
        return None
