"""Fixture files (requirements A-FIX-01 to A-FIX-04)."""

from __future__ import annotations

import json
import runpy
import stat
from pathlib import Path
from typing import Any

import pytest

from atdm_engine.errors import AtdmError, ErrorCode
from atdm_services.leases.answer import leased
from atdm_services.leases.fixtures import write_fixtures

RUN = "01K7ZQ0000ABCDEFGHJK000001"


@pytest.fixture
def response() -> dict[str, Any]:
    return leased(
        {
            "request_id": RUN[:20] + "000000",
            "test_run_id": RUN,
            "scenario_id": "claim_denial_active_member",
            "domain": "healthcare",
            "token": "atdm_secret",
            "data": {"member_id": f"m-{RUN}", "note": "back\\slash 'single' \"double\"\n\u00e9"},
            "expires_at": "2026-01-01T00:00:00+00:00",
            "seed": 7,
            "as_of": "2026-01-01T00:00:00+00:00",
        }
    )


def test_playwright_file_has_exactly_the_four_keys(
    response: dict[str, Any], tmp_path: Path
) -> None:
    paths = write_fixtures(response, tmp_path / "new" / "folder", playwright=True, pytest=False)

    assert paths["pytest"] is None
    path = Path(str(paths["playwright"]))
    assert path.is_absolute()
    assert path.name == f"claim_denial_active_member_{RUN}.json"
    text = path.read_text(encoding="utf-8")
    payload = json.loads(text)
    assert sorted(payload) == ["cleanup", "data", "scenario_id", "test_run_id"]
    assert payload["cleanup"]["cleanup_token"] == "atdm_secret"
    assert text == json.dumps(payload, indent=2, sort_keys=True) + "\n"


def test_pytest_file_is_a_module_that_gives_the_same_payload(
    response: dict[str, Any], tmp_path: Path
) -> None:
    paths = write_fixtures(response, tmp_path, playwright=True, pytest=True)

    assert Path(str(paths["pytest"])).name == f"claim_denial_active_member_{RUN}.py"
    module = runpy.run_path(str(paths["pytest"]))
    assert module["SCENARIO_ID"] == "claim_denial_active_member"
    assert module["TEST_RUN_ID"] == RUN
    payload = module["scenario_data"]()
    assert payload == json.loads(Path(str(paths["playwright"])).read_text(encoding="utf-8"))
    assert payload["data"]["note"] == response["data"]["note"]
    payload["data"].clear()
    assert module["scenario_data"]()["data"] == response["data"]


def test_files_are_for_their_owner_alone(response: dict[str, Any], tmp_path: Path) -> None:
    paths = write_fixtures(response, tmp_path, playwright=True, pytest=True)

    modes = {stat.S_IMODE(Path(str(path)).stat().st_mode) for path in paths.values()}
    assert modes == {0o600}
    assert len(list(tmp_path.iterdir())) == 2


def test_relative_directory_gives_absolute_paths(
    response: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    paths = write_fixtures(response, Path("automation/fixtures"), playwright=True, pytest=False)

    assert Path(str(paths["playwright"])).parent == tmp_path / "automation" / "fixtures"


def test_a_name_that_leaves_the_directory_is_refused(
    response: dict[str, Any], tmp_path: Path
) -> None:
    response["scenario_id"] = "../../outside"
    with pytest.raises(AtdmError) as caught:
        write_fixtures(response, tmp_path / "inner", playwright=True, pytest=True)
    assert caught.value.code is ErrorCode.REQUEST_INVALID
    assert list(tmp_path.rglob("*")) == []


def test_an_unwritable_place_is_a_clear_error(response: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(AtdmError) as caught:
        write_fixtures(response, tmp_path / "file", playwright=True, pytest=False)
    assert caught.value.code is ErrorCode.STORE_FAILED
    assert "atdm_secret" not in str(caught.value)
