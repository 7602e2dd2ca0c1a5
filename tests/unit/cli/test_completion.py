"""What a shell offers for a half-typed word."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from atdm.cli import completion


def test_scenarios_by_name() -> None:
    assert "claim_denial_active_member" in completion.scenario_names("")
    assert completion.scenario_names("active_") == ["active_member_clean"]
    assert completion.scenario_names("no such") == []


def test_scenarios_by_domain_for_those_who_type_it() -> None:
    assert not any("/" in name for name in completion.scenario_names("healthcare"))
    assert "healthcare/expired_eligibility" in completion.scenario_names("healthcare/exp")


def test_only_scenarios(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "loose.yaml").touch()
    (tmp_path / "own" / "tables").mkdir(parents=True)
    for name in ("own/domain.yaml", "own/theirs.yml", "own/tables/thing.yaml", "notes.txt"):
        (tmp_path / name).touch()
    monkeypatch.setenv("ATDM_SCENARIO_PATH", str(tmp_path))
    offered = set(completion.scenario_names("")) | set(completion.scenario_names("own/"))
    assert {"loose", "theirs", "own/theirs"} <= offered
    assert not {"domain", "thing", "notes", "claim", "golden", "atdm"} & offered


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("atdm rese", ["reset", "reset-all"]),
        ("atdm request expired_s", ["expired_subscription"]),
        ("atdm schema t", ["table"]),
        ("atdm catalog ", ["requests", "runs", "scenarios"]),
    ],
)
def test_bash_is_answered(typed: str, offered: list[str]) -> None:
    words = typed.split(" ")
    answer = subprocess.run(
        [Path(sys.executable).with_name("atdm")],
        env={
            **os.environ,
            "_ATDM_COMPLETE": "complete_bash",
            "COMP_WORDS": typed,
            "COMP_CWORD": str(len(words) - 1),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert sorted(answer.stdout.split()) == offered
