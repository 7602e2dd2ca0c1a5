"""The end of a session, after its last process."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from atdm.pytest.client import SessionClient, in_one_line
from atdm.pytest.orphans import clean_up
from atdm.pytest.session_files import SessionFolder, read_entries
from atdm_engine.errors import AtdmError
from atdm_resources.settings import Settings
from atdm_resources.telemetry.redaction import redact_url


@dataclass
class Ended:
    """The results for the summary. ``url`` is the target's, without a password."""

    kept: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    url: str | None = None


def end_session(session_id: str, settings: Settings | None) -> Ended:
    """Reset the leases of dead workers and unused runs. Does nothing if no test needed data.

    ``settings`` None means those of the environment.
    """
    ended = Ended()
    try:
        known = settings or Settings.from_environment()
        folder = SessionFolder(known.home, session_id)
        if not folder.path.is_dir():
            return ended
        target = SessionClient(known)
        ended.url = redact_url(target.url).replace(":***@", "@")
        for path in folder.journals():
            ended.kept += [entry for entry in read_entries(path) if "kept" in entry]
        ended.problems = clean_up(folder, target, keep=True)
        target.close()
    except (AtdmError, OSError) as error:
        ended.problems.append(f"the next session resets what this one left: {in_one_line(error)}")
    return ended


def seal() -> None:
    """Seal and export the audit trail. Raises AtdmError."""
    from atdm.client.sync import AtdmClient

    with AtdmClient(source="pytest") as client:
        client.seal_audit()
