"""DICOM files as pydicom writes them."""

from __future__ import annotations

import io

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid


def dicom(values, **elements):
    """Return a dataset that holds grey pixels (H, W), or colours (H, W, 3), and any elements by keyword."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid(entropy_srcs=["one"])
    dataset.Modality, dataset.PatientName, dataset.PatientID = "CT", "Doe^Jane", "4711"
    height, width = values.shape[:2]
    dataset.Rows, dataset.Columns = height, width
    dataset.SamplesPerPixel = values.shape[2] if values.ndim == 3 else 1
    dataset.PhotometricInterpretation = "RGB" if values.ndim == 3 else "MONOCHROME2"
    if values.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = dataset.BitsStored = 8 * values.dtype.itemsize
    dataset.PixelRepresentation = int(values.dtype.kind == "i")
    dataset.PixelData = values.tobytes()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    dataset.HighBit = dataset.BitsStored - 1
    return dataset


def written(dataset):
    """Return the bytes of a dataset's file."""
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def ramp(low, high, dtype=np.uint16):
    """Return 4 rows of 64 values from low to high."""
    return np.tile(np.linspace(low, high, 64).round().astype(dtype), (4, 1))
