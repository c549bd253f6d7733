"""What the LaunchPad refuses."""

from __future__ import annotations

from fireworks.core.launchpad import LockedWorkflowError

from orionflow.errors import OrionflowError


class LaunchRefusedError(OrionflowError, LockedWorkflowError):
    """A launch that no longer owns its firework tried to finish it.

    The firework was declared lost, rerun, defused or deleted meanwhile; whoever runs this launch
    must stop. FireWorks' own Rocket takes it for a locked workflow and ends quietly.
    """

    def __init__(self, message: str, *, launch_id: int, fw_id: int | None = None,
                 hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.launch_id = launch_id
        self.fw_id = fw_id
