"""What to do about each error, for people; the error code is for programs."""

from __future__ import annotations

from collections.abc import Mapping

from atdm_engine.errors import ErrorCode

ADVICE: Mapping[ErrorCode, str] = {
    ErrorCode.SCENARIO_NOT_FOUND: "`atdm scenarios` lists what there is.",
    ErrorCode.CONSTRAINT_INVALID: "`atdm scenarios NAME` shows the constraints of a scenario.",
    ErrorCode.RUN_NOT_FOUND: "`atdm catalog runs` lists the requests and runs that are known.",
    ErrorCode.TOKEN_MISMATCH: (
        "The token was printed once, by the request that leased the run; "
        "`atdm reset --owner OWNER` resets all runs of an owner."
    ),
    ErrorCode.NONE_READY: "Ask without --no-lease to have one made, or wait for the pool.",
    ErrorCode.BUSY: "A restore or a reset of everything is under way: try again in a moment.",
    ErrorCode.TARGET_UNREACHABLE: (
        "Check ATDM_DATABASE_URL and that the server runs; without the variable, "
        "`atdm init` starts an embedded one."
    ),
    ErrorCode.TARGET_NOT_INITIALISED: "Run `atdm init`.",
    ErrorCode.TARGET_NOT_DISPOSABLE: (
        "ATDM writes only into a database that is marked as disposable: "
        "`atdm init --disposable DBNAME`."
    ),
    ErrorCode.TARGET_DRIFT: (
        "Change the tables to match the table files, or `atdm init --rebuild` (drops their rows)."
    ),
    ErrorCode.STORE_FAILED: "Check ATDM_STORE_URL, its permissions and the space left.",
    ErrorCode.LLM_MODE_NOT_ENABLED: "Unset ATDM_PLANNER.",
    ErrorCode.NO_BASELINE: "`atdm baseline-snapshot` captures one.",
    ErrorCode.BASELINE_NOT_FOUND: "`atdm baseline-list` shows what there is.",
    ErrorCode.BASELINE_EXISTS: "Use another id: baselines never change.",
    ErrorCode.CLONE_FAILED: (
        "`atdm baseline-clones --all` lists the databases. Orphaned ones are dropped, so trying "
        "again is safe."
    ),
    ErrorCode.CONFIRM_REQUIRED: "Add --confirm.",
    ErrorCode.DATASET_NOT_FOUND: "The files in the datasets/ folders define the datasets.",
    ErrorCode.CONSTRAINT_CONTRADICTION: (
        "Leave one of the two out; `atdm scenarios NAME` shows the values that a scenario fixes."
    ),
    ErrorCode.REQUEST_INVALID: "Nothing was done: correct the value that the message names.",
    ErrorCode.REQUEST_CONFLICT: (
        "Nothing was done: use another name or id, or leave out the values that differ."
    ),
    ErrorCode.VALIDATOR_REJECTED: (
        "Nothing was loaded. `atdm audit REQUEST` shows the rows that failed, in quarantine."
    ),
    ErrorCode.SEED_FAILED: ("Nothing of it is in the target: ask again when the cause is removed."),
    ErrorCode.RESET_FAILED: "Nothing was deleted: remove what keeps the rows, then reset again.",
    ErrorCode.SNAPSHOT_FAILED: (
        "Nothing was published, the target is unchanged: capture again when the cause is removed."
    ),
    ErrorCode.RESTORE_FAILED: ("The target is unchanged: restore again when the cause is removed."),
    ErrorCode.DATASET_FAILED: (
        "Nothing was published, finished shards are kept: build the same version again to resume."
    ),
    ErrorCode.DAGSTER_UNREACHABLE: "Check the webserver's URL and that it runs: `atdm up`.",
    ErrorCode.DAGSTER_RUN_FAILED: "Dagster's page of the run shows which step failed.",
    ErrorCode.BASELINE_INVALID: (
        "`atdm baseline-list` shows which ones are intact; `atdm baseline-verify ID` checks every "
        "file."
    ),
}
