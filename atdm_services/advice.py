"""Advice for people about each error code."""

from __future__ import annotations

from collections.abc import Mapping

from atdm_engine.errors import ErrorCode

ADVICE: Mapping[ErrorCode, str] = {
    ErrorCode.SCENARIO_NOT_FOUND: "`atdm scenarios` lists what there is.",
    ErrorCode.CONSTRAINT_INVALID: "`atdm scenarios NAME` shows the constraints of a scenario.",
    ErrorCode.RUN_NOT_FOUND: "`atdm catalog runs` lists the requests and runs that are known.",
    ErrorCode.TOKEN_MISMATCH: (
        "The token was printed once, by the request that leased the run; "
        "`atdm reset --owner OWNER` gives back everything an owner holds."
    ),
    ErrorCode.NONE_READY: "Ask without --no-lease to have one made, or wait for the pool.",
    ErrorCode.BUSY: "A restore or a reset of everything is under way: try again in a moment.",
    ErrorCode.TARGET_UNREACHABLE: (
        "Check ATDM_DATABASE_URL and that the server runs; without the variable, "
        "`atdm init` starts an embedded one."
    ),
    ErrorCode.TARGET_NOT_INITIALISED: "Run `atdm init`.",
    ErrorCode.TARGET_NOT_DISPOSABLE: (
        "ATDM only writes into a database that somebody has marked as disposable: "
        "`atdm init --disposable DBNAME`."
    ),
    ErrorCode.TARGET_DRIFT: (
        "Put the tables back as the table files say, or `atdm init --rebuild` (drops their rows)."
    ),
    ErrorCode.STORE_FAILED: "Check ATDM_STORE_URL, its permissions and the space left.",
    ErrorCode.LLM_MODE_NOT_ENABLED: "Unset ATDM_PLANNER.",
    ErrorCode.NO_BASELINE: "`atdm baseline-snapshot` captures one.",
    ErrorCode.BASELINE_NOT_FOUND: "`atdm baseline-list` shows what there is.",
    ErrorCode.BASELINE_EXISTS: "Take another id: baselines never change.",
    ErrorCode.CLONE_FAILED: (
        "`atdm baseline-clones --all` shows which databases there are; what died is swept, so "
        "trying again is safe."
    ),
    ErrorCode.CONFIRM_REQUIRED: "Say --confirm when you mean it.",
    ErrorCode.DATASET_NOT_FOUND: "The files in the datasets/ folders say what there is.",
    ErrorCode.CONSTRAINT_CONTRADICTION: (
        "Leave one of the two out; `atdm scenarios NAME` shows what a scenario fixes."
    ),
    ErrorCode.REQUEST_INVALID: "Nothing was done: change what the message names and try again.",
    ErrorCode.REQUEST_CONFLICT: (
        "Nothing was done: take another name or id, or leave out what differs."
    ),
    ErrorCode.VALIDATOR_REJECTED: (
        "Nothing was loaded. `atdm audit REQUEST` shows the rows that failed, in quarantine."
    ),
    ErrorCode.SEED_FAILED: (
        "Nothing of it is in the target: ask again when the reason is out of the way."
    ),
    ErrorCode.RESET_FAILED: "Nothing was deleted: remove what keeps the rows, then reset again.",
    ErrorCode.SNAPSHOT_FAILED: (
        "Nothing was published, the target is as it was: capture again when the reason is out of "
        "the way."
    ),
    ErrorCode.RESTORE_FAILED: (
        "The target is as it was before: restore again when the reason is out of the way."
    ),
    ErrorCode.DATASET_FAILED: (
        "Nothing was published, finished shards are kept: build the same version again to go on."
    ),
    ErrorCode.DAGSTER_UNREACHABLE: "Check the webserver's URL and that it runs: `atdm up`.",
    ErrorCode.DAGSTER_RUN_FAILED: "Open the run in Dagster's web page: it shows which step failed.",
    ErrorCode.BASELINE_INVALID: (
        "`atdm baseline-list` shows which ones are intact; `atdm baseline-verify ID` names every "
        "file."
    ),
}
"""What to do about an error, for people; the code says the same to programs."""
