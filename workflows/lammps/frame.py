"""Between a structure as given and the box LAMMPS wants: rotation and reduction.

LAMMPS takes only boxes whose vectors form a lower triangle with small tilts. The cell is rotated
into that frame and its vectors replaced by shorter ones of the same lattice; results are turned
back, so that nobody else needs to know.
https://docs.lammps.org/Howto_triclinic.html
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from orionflow.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    FloatArray = NDArray[np.float64]

_TILT_EPS = 1e-10
"""A tilt below this fraction of the edge is rounding noise of the input cell."""


@dataclass(frozen=True)
class Frame:
    """The LAMMPS box of one structure.

    Attributes
    ----------
    box
        Rows are the box vectors as LAMMPS sees them, lower triangular, shape (3, 3), Å.
    rotation
        Orthogonal matrix R, shape (3, 3): a row vector v of LAMMPS is ``v @ R`` in the structure's
        frame. Its determinant is -1 for a left-handed cell.
    tilted
        The structure's own cell vectors in the LAMMPS frame, not reduced, shape (3, 3), Å.
    """

    box: FloatArray
    rotation: FloatArray
    tilted: FloatArray

    @classmethod
    def of(cls, cell: ArrayLike) -> Frame:
        """Return the frame of a cell.

        Parameters
        ----------
        cell
            Rows are the cell vectors, shape (3, 3), Å.

        Raises
        ------
        InputError
            The three vectors span no volume.
        """
        rows = np.asarray(cell, dtype=float)
        if abs(np.linalg.det(rows)) < 1e-6 * float(np.prod(np.linalg.norm(rows, axis=1))):
            raise InputError("the cell vectors lie in one plane",
                             hint="check the lattice of the structure")
        # rows.T = Q U  =>  rows = U.T Q.T, a lower triangle times a rotation.
        q, upper = np.linalg.qr(rows.T)
        signs = np.where(np.diag(upper) < 0, -1.0, 1.0)
        tilted = np.tril((upper * signs[:, None]).T)
        tilted[np.abs(tilted) < _TILT_EPS * np.diag(tilted).max()] = 0.0
        box = tilted.copy()
        # yz before xz: taking b from c changes xz.
        for i, j in ((1, 0), (2, 1), (2, 0)):
            box[i] -= box[j] * np.round(box[i, j] / box[j, j])
        return cls(box=box, rotation=(q * signs).T, tilted=tilted)

    @property
    def triclinic(self) -> bool:
        """Whether the box has a tilt."""
        return bool(np.any(np.tril(self.box, -1)))

    def to_lammps(self, vectors: ArrayLike) -> FloatArray:
        """Rotate row vectors, shape (n, 3), from the structure's frame to the box's."""
        return np.asarray(np.asarray(vectors, dtype=float) @ self.rotation.T)

    def vectors(self, vectors: ArrayLike) -> FloatArray:
        """Rotate row vectors, shape (..., 3), from LAMMPS back to the structure's frame."""
        return np.asarray(np.asarray(vectors, dtype=float) @ self.rotation)

    def tensor(self, tensor: ArrayLike) -> FloatArray:
        """Rotate a second-rank tensor, shape (3, 3), from LAMMPS back."""
        return np.asarray(self.rotation.T @ np.asarray(tensor, dtype=float) @ self.rotation)

    def cell(self, box: ArrayLike) -> FloatArray:
        """Return a box of a later step as a cell of the structure's own kind.

        Parameters
        ----------
        box
            Rows are the box vectors LAMMPS reported, shape (3, 3), Å.

        Returns
        -------
        ndarray
            Cell vectors, shape (3, 3), Å: rotated back, and the same integer combination of the
            box vectors as at the start, also after LAMMPS flipped a tilt.
        """
        rows = np.asarray(box, dtype=float)
        combination = np.rint(np.asarray(self.tilted @ np.linalg.inv(rows), dtype=np.float64))
        if round(abs(np.linalg.det(combination))) != 1:  # deformed beyond recognition (a liquid)
            combination = np.rint(np.asarray(self.tilted @ np.linalg.inv(self.box)))
        return self.vectors(combination @ rows)
