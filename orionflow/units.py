"""Conversion factors between the units of the codes and ours (eV, Å, eV/Å, kbar for stress).

Values: CODATA 2018, https://physics.nist.gov/cuu/Constants/ (doi:10.1103/RevModPhys.93.025010).
"""

RYDBERG_EV = 13.605693122994
"""One rydberg in eV."""
HARTREE_EV = 2 * RYDBERG_EV
"""One hartree in eV."""
BOHR_ANGSTROM = 0.529177210903
"""One bohr in Å."""
EV_PER_ANGSTROM3_GPA = 160.2176634
"""One eV/Å³ in GPa (exact since the 2019 SI)."""
EV_PER_ANGSTROM3_KBAR = 10 * EV_PER_ANGSTROM3_GPA
"""One eV/Å³ in kbar."""
HARTREE_PER_BOHR3_KBAR = HARTREE_EV / BOHR_ANGSTROM**3 * EV_PER_ANGSTROM3_KBAR
"""One hartree/bohr³ in kbar."""
RYDBERG_PER_BOHR_EV_ANGSTROM = RYDBERG_EV / BOHR_ANGSTROM
"""One Ry/bohr in eV/Å."""
BAR_KBAR = 1e-3
"""One bar in kbar."""
