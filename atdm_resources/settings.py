"""The settings in the environment: where things are, and who asks."""

from __future__ import annotations

import getpass
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from atdm_engine.errors import AtdmError, ErrorCode

Output = Literal["human", "json"]
Encryption = Literal["AES256", "aws:kms"]

_INVOKER = re.compile(r"[a-z][a-z0-9_-]{0,31}:[!-~]{1,96}\Z")
_PLANNERS = ("rule", "llm")
_OUTPUTS: tuple[Output, ...] = ("human", "json")
_ENCRYPTIONS: tuple[Encryption, ...] = ("AES256", "aws:kms")
_STORES = ("file://", "s3://")


@dataclass(frozen=True, slots=True)
class S3Settings:
    """How an object store is reached. Credentials come from where the AWS tools look for them.

    ``path_style``: the bucket is in the path and not in the host name; None: where an endpoint is
    named. ``encryption`` is done by the server; ``kms_key_id`` belongs to ``aws:kms``.
    ``read_seconds`` is the longest silence of a server. botocore makes ``attempts`` of each call,
    and s3fs makes up to five such calls when a connection breaks.
    """

    endpoint_url: str | None = None
    region: str | None = None
    path_style: bool | None = None
    encryption: Encryption | None = None
    kms_key_id: str | None = None
    read_seconds: float = 60
    attempts: int = 3


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything the environment decides.

    ``home`` holds the embedded server, Dagster's files and (by default) the store. ``database_url``
    None: the embedded server in ``home``. ``scenario_path`` lists further folders of specification
    files. ``invoker`` is ``human:<name>`` or ``agent:<id>`` (requirement A-AUD-13).
    ``user_header`` is the HTTP header in which a proxy in front of the webserver names its user.
    """

    home: Path
    database_url: str | None
    dagster_database_url: str | None
    store_url: str
    fixture_dir: Path
    scenario_path: tuple[Path, ...]
    invoker: str
    planner: str
    output: Output
    s3: S3Settings = field(default_factory=S3Settings)
    user_header: str | None = None

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """The settings in ``environ`` (default: this process's). An empty variable counts as unset.

        Raises:
            AtdmError: REQUEST_INVALID, naming the variable, what was found and what is allowed.
        """
        source = os.environ if environ is None else environ

        def read(name: str) -> str | None:
            return source.get(name, "").strip() or None

        home = Path(read("ATDM_HOME") or ".atdm").expanduser().absolute()
        store_url = read("ATDM_STORE_URL") or (home / "store").as_uri()
        if not store_url.startswith(_STORES):
            raise _refused("ATDM_STORE_URL", store_url, "a URL that starts with file:// or s3://")
        invoker = read("ATDM_INVOKER") or f"human:{_user_name()}"
        if not is_invoker(invoker):
            raise _refused("ATDM_INVOKER", invoker, "human:<name> or agent:<id>")
        planner = read("ATDM_PLANNER") or "rule"
        if planner not in _PLANNERS:
            raise _refused("ATDM_PLANNER", planner, " or ".join(_PLANNERS))
        output = read("ATDM_CLI_OUTPUT") or "human"
        if output not in _OUTPUTS:
            raise _refused("ATDM_CLI_OUTPUT", output, " or ".join(_OUTPUTS))
        fixtures = read("ATDM_FIXTURE_DIR") or "automation/fixtures"
        folders = (read("ATDM_SCENARIO_PATH") or "").split(os.pathsep)
        return cls(
            home=home,
            database_url=read("ATDM_DATABASE_URL"),
            dagster_database_url=read("ATDM_DAGSTER_DATABASE_URL"),
            store_url=store_url.rstrip("/"),
            fixture_dir=Path(fixtures).expanduser().absolute(),
            scenario_path=tuple(Path(part).expanduser().absolute() for part in folders if part),
            invoker=invoker,
            planner=planner,
            output=output,
            s3=_s3_settings(read),
            user_header=read("ATDM_USER_HEADER"),
        )


def is_invoker(text: str) -> bool:
    """Whether ``text`` names an invoker: ``human:<name>`` or ``agent:<id>``."""
    return bool(_INVOKER.match(text))


def _s3_settings(read: Callable[[str], str | None]) -> S3Settings:
    encryption = read("ATDM_S3_ENCRYPTION")
    if encryption is not None and encryption not in _ENCRYPTIONS:
        raise _refused("ATDM_S3_ENCRYPTION", encryption, " or ".join(_ENCRYPTIONS))
    kms_key = read("ATDM_S3_KMS_KEY_ID")
    if kms_key and encryption != "aws:kms":
        raise _refused("ATDM_S3_KMS_KEY_ID", kms_key, "only with ATDM_S3_ENCRYPTION=aws:kms")
    path_style = read("ATDM_S3_PATH_STYLE")
    if path_style not in (None, "true", "false"):
        raise _refused("ATDM_S3_PATH_STYLE", path_style, "true or false")
    return S3Settings(
        endpoint_url=read("ATDM_S3_ENDPOINT_URL"),
        region=read("ATDM_S3_REGION"),
        path_style=None if path_style is None else path_style == "true",
        encryption=encryption,
        kms_key_id=kms_key,
    )


def _user_name() -> str:
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name and without $USER
        name = f"uid-{os.getuid()}"
    return re.sub(r"[^!-~]", "-", name) or "unknown"


def _refused(variable: str, found: str, allowed: str) -> AtdmError:
    return AtdmError(
        ErrorCode.REQUEST_INVALID,
        f"{variable} is {found!r}; allowed: {allowed}",
        {"variable": variable, "found": found, "allowed": allowed},
    )
