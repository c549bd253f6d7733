"""Start-up is paid by every short job, so what the launcher imports is bounded."""

import subprocess
import sys

import pytest


def loaded_modules(statement):
    code = f"{statement}\nimport sys\nprint('\\n'.join(sorted(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=True)
    return set(run.stdout.split())


@pytest.mark.parametrize("module", ["orionflow.launchers.launchpad",
                                    "orionflow.launchers.launcher"])
def test_launcher_imports_no_recipe_and_no_pymatgen(module):
    loaded = loaded_modules(f"import {module}")
    heavy = {"pymatgen", "emmet", "atomate2", "ase", "pandas", "matplotlib", "custodian"}
    assert not heavy & {name.split(".")[0] for name in loaded}
    assert "orionflow.workflows.qe" not in loaded


def test_command_help_imports_nothing_heavy():
    loaded = loaded_modules("import orionflow.cli")
    heavy = {"pymatgen", "emmet", "atomate2", "ase", "pandas", "matplotlib", "fireworks", "jobflow"}
    assert not heavy & {name.split(".")[0] for name in loaded}
