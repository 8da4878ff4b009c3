"""Features as Zarr reads them and receipts describe them: the reference for our own reader."""

from __future__ import annotations

import numpy as np
import zarr

from store.format.arrays import ZARR_FOLDER, restored


def zarr_arrays(location, teacher):
    """Open a teacher's arrays in a folder."""
    return zarr.open_group(str(location.path / ZARR_FOLDER / teacher), mode="r")


def through_zarr(store, rows, *, teacher, side):
    array, committed_N = zarr_arrays(store.location, teacher)[side], np.zeros(store.info.rows, bool)
    for receipt in store.receipts(teacher).values():
        committed_N[receipt.start : receipt.stop] = True
    rows = np.arange(store.info.rows)[rows]
    found = restored(np.asarray(array.oindex[np.minimum(rows, array.shape[0] - 1), :]))
    found[~committed_N[rows]] = 0
    return found
