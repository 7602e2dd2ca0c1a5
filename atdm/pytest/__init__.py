"""The pytest plugin and what tests import from it.

``plugin`` holds hooks and fixtures; the other modules hold what these call. What other programs use
as well belongs to ``atdm.client``.
"""

from atdm.pytest.data import AtdmData
from atdm.pytest.marker import CLEANUPS, atdm_scenario
from atdm.pytest.suite import AtdmResetWarning

__all__ = ["CLEANUPS", "AtdmData", "AtdmResetWarning", "atdm_scenario"]
