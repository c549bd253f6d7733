"""The attacks on campaigns in full: 1000 races of two, 500 kills, a kill at every database call.

    python benchmarks/campaign_races.py [pytest options]

Runs tests/agents/test_campaign_bars.py with its whole numbers; half an hour on two cores.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main() -> int:
    """Run the tests."""
    command = [sys.executable, "-m", "pytest", "tests/agents/test_campaign_bars.py", "-v",
               "--timeout", "7200", "--durations", "10", *sys.argv[1:]]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, "CAMPAIGN_BARS": "full"},
                          check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
