"""FireWorks' LaunchPad, quick and safe against being killed, on the same documents.

Stock `lpad`, `rlaunch` and `qlaunch` may work on the same workflow at the same time. The rules that
make it so, and the order of all writes, are in :mod:`orionflow.launchers.pad.graph`.
"""

from orionflow.launchers.pad.errors import LaunchRefusedError
from orionflow.launchers.pad.launchpad import OrionLaunchPad
from orionflow.launchers.pad.settle import Outcome, Settled

__all__ = ["LaunchRefusedError", "OrionLaunchPad", "Outcome", "Settled"]
