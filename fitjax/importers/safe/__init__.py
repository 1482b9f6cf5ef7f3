"""Opening files of other people: the content decides what a file is, nothing in it is run, and damage is one clear error.

    kind = sniff(path)                                   # by the first bytes
    values = read_pickle(path)                           # dicts, arrays, SciPy sparse matrices; chumpy objects become their arrays
    values = read_npz(path)                              # name → array; objects=True for the few files that pickle inside
    found = read_mat(path); found = read_hdf5(path)      # in a child process: found.arrays, found.texts
    fields = Fields(path, values, "FLAME")               # checks of shape, index range and finiteness
    mean = fields.floats("v_template", (None, 3))

All raise :class:`fitjax.errors.BasisError` and nothing else.
"""

from fitjax.importers.safe.arrays import read_npy, read_npz
from fitjax.importers.safe.cereal import EosModel, PcaModel, read_eos_blendshapes, read_eos_model
from fitjax.importers.safe.fields import Fields
from fitjax.importers.safe.foreign import Foreign, read_hdf5, read_mat
from fitjax.importers.safe.kinds import FileKind, expect, sniff
from fitjax.importers.safe.pickle_reader import parse_pickle, read_pickle

__all__ = [
    "EosModel",
    "Fields",
    "FileKind",
    "Foreign",
    "PcaModel",
    "expect",
    "parse_pickle",
    "read_eos_blendshapes",
    "read_eos_model",
    "read_hdf5",
    "read_mat",
    "read_npy",
    "read_npz",
    "read_pickle",
    "sniff",
]
