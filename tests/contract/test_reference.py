import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_reference_pages_are_up_to_date():
    run = subprocess.run([sys.executable, ROOT / "scripts" / "reference.py", "--check"],
                         capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr + "run: python scripts/reference.py"
