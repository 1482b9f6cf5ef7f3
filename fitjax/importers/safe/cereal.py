"""The archives of eos (https://github.com/patrikhuber/eos): cereal's binary form, little-endian, without magic bytes.

A matrix is two int32 (rows, columns) and its float32 by columns; a list is a uint64 and its items. A PCA model is mean, orthonormal basis,
eigenvalues and triangles; blendshapes are a list of name and matrix. A morphable model is its version (uint32), PCA models of shape and colour,
from version 2 on an optional expression model (PCA or blendshapes), from 3 on optional landmarks by name, texture coordinates (float64 pairs), and
from 4 on their triangles. As every count is followed by that many bytes and the archive ends where the file ends, other files do not pass.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from fitjax.errors import BasisError
from fitjax.importers.safe.kinds import FileKind, expect

_MAX_BYTES = 1 << 30


@dataclass(frozen=True)
class PcaModel:
    """Mean (3 V,), orthonormal basis (3 V, K), variances (K,) and triangles (F, 3)."""

    mean: Float[np.ndarray, "N"]
    basis: Float[np.ndarray, "N K"]
    variances: Float[np.ndarray, "K"]
    triangles: Int[np.ndarray, "F 3"]


class _Reader:
    def __init__(self, path: Path, what: str):
        expect(path, FileKind.UNKNOWN, what=what)
        if path.stat().st_size > _MAX_BYTES:
            raise BasisError(f"{path}: larger than any archive of eos; is it the right file?")
        try:
            self.raw = path.read_bytes()
        except OSError as error:
            raise BasisError(f"{path}: cannot be read ({error.strerror})") from None
        self.path, self.what, self.at = path, what, 0

    def wrong(self, reason: str) -> BasisError:
        return BasisError(f"{self.path}: not {self.what} ({reason}); is it the right file, and complete?")

    def numbers(self, dtype: str, count: int) -> np.ndarray:
        size = count * np.dtype(dtype).itemsize
        if count < 0 or size > len(self.raw) - self.at:
            raise self.wrong("it is cut short or of another kind")
        found = np.frombuffer(self.raw, dtype, count, self.at)
        self.at += size
        return found

    def count(self) -> int:
        return int(self.numbers("<u8", 1)[0])

    def matrix(self) -> np.ndarray:
        rows, columns = (int(n) for n in self.numbers("<i4", 2))
        if rows < 0 or columns < 0:
            raise self.wrong("a matrix of a negative size")
        return self.numbers("<f4", rows * columns).reshape((rows, columns), order="F")

    def pca(self) -> PcaModel:
        mean, basis, variances = self.matrix(), self.matrix(), self.matrix()
        triangles = self.numbers("<i4", 3 * min(self.count(), 1 << 32)).reshape(-1, 3)
        if mean.shape[1] != 1 or variances.shape[1] != 1 or len(variances) != basis.shape[1] or len(basis) != len(mean):
            raise self.wrong(
                f"mean {mean.shape}, basis {basis.shape} and variances {variances.shape} do not fit together"
            )
        return PcaModel(mean[:, 0], basis, variances[:, 0], triangles)

    def blendshapes(self) -> dict[str, np.ndarray]:
        number = self.count()
        if not 1 <= number <= 1000:
            raise self.wrong(f"it would hold {number} blendshapes")
        found: dict[str, np.ndarray] = {}
        for _ in range(number):
            name, value = self.text(), self.matrix()
            if value.shape[1] != 1 or name in found:
                raise self.wrong(f"blendshape {name[:40]!r} comes twice or is no column")
            found[name] = value[:, 0]
        return found

    def text(self) -> str:
        length = self.count()
        if length > 200:
            raise self.wrong("a name of more than 200 bytes")
        return self.numbers("u1", length).tobytes().decode("utf-8", "replace")

    def absent(self) -> bool:
        """The flag of an optional."""
        return bool(self.numbers("u1", 1)[0])

    def end(self) -> None:
        if self.at != len(self.raw):
            raise self.wrong(f"{len(self.raw) - self.at} bytes are left over")


@dataclass(frozen=True)
class EosModel:
    """A morphable model of eos.

    Attributes:
        shape, colour: ``colour.mean`` is of size 0 if there is none.
        expression: a PCA model, blendshapes by name, or None.
        landmarks: vertex by name, empty if there are none.
        uv, uv_triangles: one coordinate per vertex (v downwards) or none; triangles only in newer archives, else of size 0.
    """

    shape: PcaModel
    colour: PcaModel
    expression: PcaModel | dict[str, np.ndarray] | None
    landmarks: dict[str, int]
    uv: Float[np.ndarray, "T 2"]
    uv_triangles: Int[np.ndarray, "F 3"]


def read_eos_model(path: str | os.PathLike[str]) -> EosModel:
    """A morphable model.

    Raises:
        BasisError: not such an archive, damaged, or of a version other than 1 to 4.
    """
    reader = _Reader(Path(path), "a morphable model of eos (.bin)")
    version = int(reader.numbers("<u4", 1)[0])
    if not 1 <= version <= 4:
        raise reader.wrong(f"expected version 1 to 4, found {version}")
    shape, colour = reader.pca(), reader.pca()
    expression: PcaModel | dict[str, np.ndarray] | None = None
    landmarks: dict[str, int] = {}
    if version >= 2 and not reader.absent():
        expression = reader.pca() if int(reader.numbers("<i4", 1)[0]) == 0 else reader.blendshapes()
    if version >= 3 and not reader.absent():
        for _ in range(min(reader.count(), 1 << 16)):
            name = reader.text()
            landmarks[name] = int(reader.numbers("<i4", 1)[0])
    uv = reader.numbers("<f8", 2 * min(reader.count(), 1 << 32)).reshape(-1, 2)
    count = 3 * min(reader.count(), 1 << 32) if version >= 4 else 0
    uv_triangles = reader.numbers("<i4", count).reshape(-1, 3)
    reader.end()
    return EosModel(shape, colour, expression, landmarks, uv, uv_triangles)


def read_eos_blendshapes(path: str | os.PathLike[str]) -> dict[str, Float[np.ndarray, "N"]]:
    """Name → displacement (3 V,) of each blendshape.

    Raises:
        BasisError: not such an archive, or damaged.
    """
    reader = _Reader(Path(path), "an archive of eos's blendshapes (.bin)")
    found = reader.blendshapes()
    reader.end()
    return found
