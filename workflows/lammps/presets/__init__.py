"""Named force fields: files of the LAMMPS potentials folder with their references.

A preset names a file; which elements it holds is read from the file itself.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """One potential file of the LAMMPS distribution.

    Attributes
    ----------
    file
        Name in the potentials folder.
    pair_style
        LAMMPS pair style that reads it.
    doi
        Paper that must be cited.
    reference
        The paper in words.
    """

    file: str
    pair_style: str
    doi: str
    reference: str


_ZHOU = ("10.1016/S1359-6454(01)00287-7", "Zhou et al., Acta Mater. 49, 4005 (2001)")

PRESETS: dict[str, Preset] = {
    "Al_zhou": Preset("Al_zhou.eam.alloy", "eam/alloy", *_ZHOU),
    "AlCu": Preset("AlCu.eam.alloy", "eam/alloy", "10.1103/PhysRevB.54.8398",
                   "Cai and Ye, Phys. Rev. B 54, 8398 (1996)"),
    "AlCu.adp": Preset("AlCu.adp", "adp", "10.1103/PhysRevB.83.054116",
                       "Apostol and Mishin, Phys. Rev. B 83, 054116 (2011)"),
    "BNC.tersoff": Preset("BNC.tersoff", "tersoff", "10.1103/PhysRevB.86.115410",
                          "Kinaci et al., Phys. Rev. B 86, 115410 (2012)"),
    "CdTe.sw": Preset("CdTe.sw", "sw", "10.1103/PhysRevB.40.3129",
                      "Wang, Stroud and Markworth, Phys. Rev. B 40, 3129 (1989)"),
    "Cu_mishin": Preset("Cu_mishin1.eam.alloy", "eam/alloy", "10.1103/PhysRevB.63.224106",
                        "Mishin et al., Phys. Rev. B 63, 224106 (2001), EAM1"),
    "Cu_zhou": Preset("Cu_zhou.eam.alloy", "eam/alloy", *_ZHOU),
    "CuNi": Preset("CuNi.eam.alloy", "eam/alloy", "10.1088/0953-8984/26/3/035404",
                   "Onat and Durukanoglu, J. Phys.: Condens. Matter 26, 035404 (2014)"),
    "CuTa": Preset("CuTa.eam.alloy", "eam/alloy", "10.1103/PhysRevB.69.144113",
                   "Zhou, Johnson and Wadley, Phys. Rev. B 69, 144113 (2004)"),
    "Fe_mm": Preset("Fe_mm.eam.fs", "eam/fs", "10.1080/14786430310001613264",
                    "Mendelev et al., Philos. Mag. 83, 3977 (2003)"),
    "GaN.tersoff": Preset("GaN.tersoff", "tersoff", "10.1088/0953-8984/15/32/324",
                          "Nord et al., J. Phys.: Condens. Matter 15, 5649 (2003)"),
    "Mg_mm": Preset("Mg_mm.eam.fs", "eam/fs", "10.1103/PhysRevB.73.024116",
                    "Sun et al., Phys. Rev. B 73, 024116 (2006)"),
    "Ni.adp": Preset("Ni.adp", "adp", "10.1016/j.actamat.2005.05.001",
                     "Mishin, Mehl and Papaconstantopoulos, Acta Mater. 53, 4029 (2005)"),
    "NiAlH_jea": Preset("NiAlH_jea.eam.alloy", "eam/alloy", "10.1088/0965-0393/3/3/001",
                        "Angelo, Moody and Baskes, Model. Simul. Mater. Sci. Eng. 3, 289 (1995)"),
    "Si.sw": Preset("Si.sw", "sw", "10.1103/PhysRevB.31.5262",
                    "Stillinger and Weber, Phys. Rev. B 31, 5262 (1985)"),
    "Si.tersoff": Preset("Si.tersoff", "tersoff", "10.1103/PhysRevB.37.6991",
                         "Tersoff, Phys. Rev. B 37, 6991 (1988)"),
    "SiC.tersoff": Preset("SiC.tersoff", "tersoff", "10.1103/PhysRevB.39.5566",
                          "Tersoff, Phys. Rev. B 39, 5566 (1989)"),
    "SiC_Erhart-Albe": Preset("SiC_Erhart-Albe.tersoff", "tersoff", "10.1103/PhysRevB.71.035211",
                              "Erhart and Albe, Phys. Rev. B 71, 035211 (2005)"),
    "W_zhou": Preset("W_zhou.eam.alloy", "eam/alloy", *_ZHOU),
    "Zr_mm": Preset("Zr_mm.eam.fs", "eam/fs", "10.1080/09500830701191393",
                    "Mendelev and Ackland, Philos. Mag. Lett. 87, 349 (2007)"),
}
