"""Make the failing runs of this folder again: ``python capture.py [ID ...]``.

Each folder ``<ID>`` holds an input that fails with the real lmp, what it printed (``lammps.out``,
``lammps.err``, ``returncode``), and in ``healthy`` the same simulation done right, on which no rule
may fire. Made with LAMMPS 29 Sep 2021 (Debian package lammps 20210929) and Open MPI 4.1.4, by
``mpirun -np 1 lmp -in in.lammps``. No potential files are needed.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

# Containers run as root, and on shared cores a waiting rank must let others work.
os.environ.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
                  OMPI_MCA_mpi_yield_when_idle="1")
HERE = Path(__file__).parent
LMP = ["mpirun", "-np", "1", "--bind-to", "none", "lmp", "-in", "in.lammps"]
NEIGH = "neigh_modify every 1 delay 0 check yes\n"
LJ = """units lj
lattice fcc 0.8442
region box block 0 3 0 3 0 3
create_box 1 box
create_atoms 1 box
mass 1 1.0
pair_style lj/cut 2.5
pair_coeff 1 1 1.0 1.0 2.5
"""
# Copper by a Morse potential: Girifalco and Weizer, Phys. Rev. 114, 687 (1959).
CU = """units metal
lattice fcc 3.61
region box block 0 3 0 3 0 3
create_box 1 box
create_atoms 1 box
mass 1 63.546
pair_style morse 6.0
pair_coeff 1 1 0.3429 1.3588 2.866
"""
SALT = """units metal
atom_style charge
lattice custom 5.64 a1 1 0 0 a2 0 1 0 a3 0 0 1 &
  basis 0 0 0 basis 0.5 0.5 0 basis 0.5 0 0.5 basis 0 0.5 0.5 &
  basis 0.5 0 0 basis 0 0.5 0 basis 0 0 0.5 basis 0.5 0.5 0.5
region box block 0 3 0 3 0 3
create_box 2 box
create_atoms 1 box basis 5 2 basis 6 2 basis 7 2 basis 8 2
mass 1 22.99
mass 2 35.45
set type 1 charge 1
set type 2 charge -1
pair_style born/coul/long 7.0
pair_coeff 1 1 0.2637 0.317 2.340 1.048 0.499
pair_coeff 1 2 0.2110 0.317 2.755 6.990 8.675
pair_coeff 2 2 0.1582 0.317 3.170 72.40 145.4
kspace_style pppm 1e-4
"""
FENE = """units lj
atom_style bond
special_bonds fene
read_data data.chain
pair_style lj/cut 1.12246
pair_modify shift yes
pair_coeff 1 1 1.0 1.0
bond_style fene
bond_coeff 1 30.0 1.5 1.0 1.0
comm_modify cutoff 4.0
"""
HARMONIC = FENE.replace("special_bonds fene", "special_bonds lj 0 1 1").replace(
    "bond_style fene\nbond_coeff 1 30.0 1.5 1.0 1.0\ncomm_modify cutoff 4.0",
    "bond_style harmonic\nbond_coeff 1 450.0 0.97")
NVE = "velocity all create 1.44 87287\nfix 1 all nve\n"
HOT = "velocity all create 600 4928\nfix 1 all nve\n"
BATH = "velocity all create 1.0 4928\nfix 1 all nve\nfix 2 all langevin 1.0 1.0 1.0 904297\n"


def chain(bonded: int = 80) -> str:
    """Return a data file with one bonded chain folded into rows of ten, bonds of 0.97."""
    place = [(1 + 0.97 * (i % 10 if i // 10 % 2 == 0 else 9 - i % 10), 1.0, 1 + 0.97 * (i // 10))
             for i in range(bonded)]
    atoms = "\n".join(f"{i} 1 1 {x:.4f} {y:.4f} {z:.4f}" for i, (x, y, z) in enumerate(place, 1))
    bonds = "\n".join(f"{i} 1 {i} {i + 1}" for i in range(1, bonded))
    edges = "".join(f"0 12 {a}lo {a}hi\n" for a in "xyz")
    return (f"chain\n\n{bonded} atoms\n1 atom types\n{bonded - 1} bonds\n1 bond types\n\n{edges}\n"
            f"Masses\n\n1 1.0\n\nAtoms # bond\n\n{atoms}\n\nBonds\n\n{bonds}\n")


RESTART = ("units metal\nread_restart restart.*\npair_style morse 6.0\n"
           "pair_coeff 1 1 0.3429 1.3588 2.866\n" + NEIGH + "fix 1 all nve\nthermo 50\nrun 200\n")
OVERLAP = LJ.replace("create_atoms 1 box", "create_atoms 1 random 108 2 box") + NEIGH
MOVED = "displace_atoms all random 0.2 0.2 0.2 1234\n"
GAS = (LJ.replace("lattice", "boundary f f f\nlattice", 1)
       .replace("region box block 0 3 0 3 0 3", "region box block -1 4 -1 4 -1 4\n"
                "region inner block 0 2.9 0 2.9 0 2.9")
       .replace("create_atoms 1 box", "create_atoms 1 region inner"))
MOVER = "thermo 20\nrun 300\n"
QUIT = 'variable T equal temp\nif "$T > {}" then "print \'too hot\'" "quit 3"\n'
# ID: failing script, healthy twin.
CASES: dict[str, tuple[str, str]] = {
    "LAMMPS_LOST_ATOMS": (LJ + NEIGH + NVE + "timestep 0.05\n" + MOVER,
                          LJ + NEIGH + NVE + "timestep 0.005\n" + MOVER),
    "LAMMPS_LOST_THROUGH_BOUNDARY": (
        GAS + NEIGH + "velocity all create 2.0 87287\nfix 1 all nve\nthermo 20\nrun 3000\n",
        GAS.replace("boundary f f f", "boundary m m m") + NEIGH
        + "velocity all create 2.0 87287\nfix 1 all nve\nthermo 20\nrun 3000\n"),
    "LAMMPS_ATOMS_LOST_SILENTLY": (
        LJ + NEIGH + NVE + "timestep 0.05\nthermo_modify lost ignore\n" + MOVER,
        LJ + NEIGH + NVE + "timestep 0.005\nthermo_modify lost ignore\n" + MOVER),
    "LAMMPS_BOND_MISSING": (HARMONIC + NEIGH + BATH + "timestep 0.05\n" + MOVER,
                            HARMONIC + NEIGH + BATH + "timestep 0.003\n" + MOVER),
    "LAMMPS_FENE": (FENE + NEIGH + BATH + "timestep 0.02\n" + MOVER,
                    FENE + NEIGH + BATH + "timestep 0.005\n" + MOVER),
    "LAMMPS_KSPACE_RANGE": (
        SALT + "neigh_modify every 50 delay 0 check no\n" + HOT + "timestep 0.04\n" + MOVER,
        SALT + NEIGH + HOT + "timestep 0.001\nthermo 20\nrun 100\n"),
    "LAMMPS_NON_NUMERIC": (
        OVERLAP + "velocity all create 1.0 87287\nfix 1 all npt temp 1 1 0.5 iso 1 1 5\n" + MOVER,
        LJ + NEIGH + "velocity all create 1.0 87287\nfix 1 all npt temp 1 1 0.5 iso 1 1 5\n"
        + MOVER),
    "LAMMPS_NAN": (LJ + "create_atoms 1 single 0 0 0\nthermo 10\nrun 0\n",
                   LJ + "thermo 10\nrun 0\n"),
    "LAMMPS_ENERGY_ABSURD": (OVERLAP + "run 0\n", LJ + NEIGH + "run 0\n"),
    "LAMMPS_NEIGHBOR_OVERFLOW": (LJ + NEIGH + "neigh_modify one 40 page 400\n" + NVE + MOVER,
                                 LJ + NEIGH + "neigh_modify one 400 page 8000\n" + NVE + MOVER),
    "LAMMPS_ZERO_TEMPERATURE": (
        CU + NEIGH + "fix 1 all nvt temp 300 300 0.1\n" + MOVER,
        CU + NEIGH + "velocity all create 300 5\nfix 1 all nvt temp 300 300 0.1\n" + MOVER),
    "LAMMPS_MIN_STEPS": (CU + MOVED + "minimize 0 1e-4 5 1000\n",
                         CU + MOVED + "minimize 0 1e-4 5000 10000\n"),
    "LAMMPS_MIN_LINESEARCH": (
        LJ.replace("lj/cut 2.5", "lj/cut 1.3").replace("1.0 1.0 2.5", "1.0 1.0 1.3")
        + "displace_atoms all random 0.1 0.1 0.1 1234\nminimize 0 1e-6 5000 50000\n",
        LJ + "displace_atoms all random 0.1 0.1 0.1 1234\nminimize 0 1e-6 5000 50000\n"),
    "LAMMPS_MIN_ENERGY_TOLERANCE": (CU + MOVED + "minimize 1e-2 1e-4 5000 10000\n",
                                    CU + MOVED + "minimize 1e-20 1e-4 5000 10000\n"),
    "LAMMPS_DANGEROUS_BUILDS": (
        LJ + NVE.replace("1.44", "3.0") + "neigh_modify every 20 delay 0 check yes\n"
        "neighbor 0.1 bin\n" + MOVER,
        LJ + NVE.replace("1.44", "3.0") + NEIGH + MOVER),
    "LAMMPS_ENERGY_DRIFT": (
        LJ + NEIGH + NVE.replace("1.44", "3.0") + "timestep 0.018\nthermo 10\nrun 1000\n",
        LJ + NEIGH + NVE.replace("1.44", "3.0") + "timestep 0.005\nthermo 10\nrun 1000\n"),
    "LAMMPS_BOX_TILTED": (
        CU.replace("region box block 0 3 0 3 0 3", "region box prism 0 3 0 3 0 3 0 0 0") + NEIGH
        + "velocity all create 600 4928\nfix 1 all npt temp 300 300 0.1 tri 0 0 0.005\n" + MOVER,
        CU.replace("region box block 0 3 0 3 0 3", "region box prism 0 3 0 3 0 3 0 0 0") + NEIGH
        + "velocity all create 600 4928\nfix 1 all npt temp 300 300 0.1 tri 0 0 1.0\n" + MOVER),
    "LAMMPS_BOX_EXPLODED": (
        CU + NEIGH + "velocity all create 600 4928\nfix 1 all npt temp 300 300 0.1 iso 0 0 0.001\n"
        + MOVER,
        CU + NEIGH + "velocity all create 600 4928\nfix 1 all npt temp 300 300 0.1 iso 0 0 1.0\n"
        + MOVER),
    "LAMMPS_WALLTIME": (
        CU + NEIGH + HOT + "timer timeout 0:00:01 every 10\nthermo 100\nrun 20000\n"
        "write_restart last.restart\n",
        CU + NEIGH + HOT + "timer timeout 0:10:00 every 10\nthermo 100\nrun 1000\n"
        "write_restart last.restart\n"),
    "LAMMPS_KILLED": (
        CU + NEIGH + HOT + "restart 500 a.restart b.restart\nthermo 100\nthermo_modify flush yes\n"
        "run 1000000\n",
        CU + NEIGH + HOT + "restart 500 a.restart b.restart\nthermo 100\nthermo_modify flush yes\n"
        "run 1000\n"),
    "LAMMPS_STOPPED": (
        CU + NEIGH + HOT + "variable stop equal is_file(STOP)\n"
        "fix h all halt 100 v_stop > 0.5 error continue\nthermo 100\nrun 1000000\n",
        CU + NEIGH + HOT + "variable stop equal is_file(STOP)\n"
        "fix h all halt 100 v_stop > 0.5 error continue\nthermo 100\nrun 1000\n"),
    "LAMMPS_RESTART_BROKEN": (RESTART, RESTART),
    "LAMMPS_INPUT_ERROR": (CU + NEIGH + "velocityy all create 600 4928\nrun 10\n",
                           CU + NEIGH + HOT + "run 10\n"),
    "LAMMPS_QUIT": (CU + NEIGH + HOT + MOVER + QUIT.format(100),
                    CU + NEIGH + HOT + MOVER + QUIT.format(3000)),
    "LAMMPS_UNFINISHED": (CU + NEIGH + HOT + MOVER, CU + NEIGH + HOT + MOVER),
    "LAMMPS_NOT_STARTED": (CU + NEIGH + HOT + MOVER, CU + NEIGH + HOT + MOVER),
    "LAMMPS_CRASHED": (CU + NEIGH + HOT + "thermo 100\nthermo_modify flush yes\nrun 1000000\n",
                       CU + NEIGH + HOT + "thermo 100\nthermo_modify flush yes\nrun 1000\n"),
    "LAMMPS_FROZEN": (CU + NEIGH + HOT + "thermo 100\nthermo_modify flush yes\nrun 1000000\n",
                      CU + NEIGH + HOT + "thermo 100\nthermo_modify flush yes\nrun 1000\n"),
    "LAMMPS_DISK_FULL": (CU + NEIGH + HOT + "dump 1 all custom 1 big.dump id x y z vx vy vz\n"
                         + MOVER, CU + NEIGH + HOT + MOVER),
}
SIGNALS = {"LAMMPS_KILLED": signal.SIGKILL, "LAMMPS_CRASHED": signal.SIGSEGV,
           "LAMMPS_FROZEN": signal.SIGSTOP}


def write(folder: Path, script: str) -> None:
    """Write the input and what it reads."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "in.lammps").write_text(script)
    if "data.chain" in script:
        (folder / "data.chain").write_text(chain())
    if "read_restart" in script:
        start = (CU + NEIGH + HOT + "restart 200 restart.*\nthermo 50\nrun 400\n").replace(
            "0 3 0 3 0 3", "0 2 0 2 0 2").replace("morse 6.0", "morse 5.5")
        small = folder / "in.start"
        small.write_text(start)
        subprocess.run(["lmp", "-in", "in.start", "-log", "none"], cwd=folder, check=True,
                       stdout=subprocess.DEVNULL)
        small.unlink()
        if folder.name != "healthy":
            with (folder / "restart.400").open("r+b") as stream:
                stream.truncate(2000)


def run(folder: Path, name: str = "") -> int:
    """Run lmp, stop it as the case wants, keep what is needed; return its return code."""
    command = LMP if name != "LAMMPS_NOT_STARTED" else [
        *LMP[:2], "64", "--nooversubscribe", *LMP[5:]]
    with (folder / "lammps.out").open("wb") as out, (folder / "lammps.err").open("wb") as err:
        process = subprocess.Popen(command, cwd=folder, stdout=out, stderr=err,
                                   start_new_session=True)
        if name in {*SIGNALS, "LAMMPS_STOPPED"}:
            time.sleep(3)
            if name == "LAMMPS_STOPPED":
                (folder / "STOP").touch()
            else:
                children = subprocess.run(["pgrep", "-P", str(process.pid)], check=True,
                                          capture_output=True, text=True).stdout.split()
                os.kill(int(children[0]), SIGNALS[name])
        if name == "LAMMPS_FROZEN":
            time.sleep(2)
            for pid in (int(children[0]), process.pid):
                os.kill(pid, signal.SIGKILL)
        code = process.wait()
    if folder.name != "disk":
        (folder / "returncode").write_text(f"{code}\n")
    if name == "LAMMPS_UNFINISHED":  # as a file system leaves it that lost its last blocks
        text = (folder / "lammps.out").read_text()
        (folder / "lammps.out").write_text(text[: text.index("Loop time") - 200])
        (folder / "log.lammps").unlink()
    return code


def full_disk(folder: Path) -> None:
    """Run on a tmpfs of 1 MiB (needs root); keep the text, not the dump."""
    mount = folder / "disk"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1M", "tmpfs", mount], check=True)
    try:
        shutil.copy(folder / "in.lammps", mount)
        (folder / "returncode").write_text(f"{run(mount)}\n")
        for file in ("lammps.out", "lammps.err"):
            shutil.copy(mount / file, folder / file)
    finally:
        subprocess.run(["umount", mount], check=True)
        mount.rmdir()


def main(names: list[str]) -> None:
    """Make the cases named, or all."""
    for name in names or CASES:
        folder = HERE / name
        shutil.rmtree(folder, ignore_errors=True)
        for place, script in zip((folder, folder / "healthy"), CASES[name], strict=True):
            write(place, script)
            if name == "LAMMPS_DISK_FULL" and place == folder:
                full_disk(place)
            else:
                run(place, name if place == folder else "")
            for file in place.glob("log.*"):
                file.unlink()
        print(name)  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])
