"""How often sensors look."""

from __future__ import annotations

import pytest

from atdm_assets.instance import ticks
from atdm_engine.errors import AtdmError, ErrorCode


def test_sensors_look_as_often_as_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ticks.INTERVAL_VARIABLE, raising=False)
    assert ticks.interval(30) == 30
    monkeypatch.setenv(ticks.INTERVAL_VARIABLE, "5")
    assert ticks.interval(30) == 5


@pytest.mark.parametrize("given", ["0", "-1", "soon", "3601", "1.5", " 5"])
def test_what_is_no_interval_is_named(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv(ticks.INTERVAL_VARIABLE, given)
    with pytest.raises(AtdmError) as caught:
        ticks.interval(30)
    assert caught.value.code is ErrorCode.REQUEST_INVALID
    assert ticks.INTERVAL_VARIABLE in caught.value.message
