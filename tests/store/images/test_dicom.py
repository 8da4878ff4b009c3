"""DICOM: pixels as pydicom's own functions show them, and a header without the patient."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless, JPEGBaseline8Bit, JPEGLSLossless

from store.errors import PairDecodeError
from store.images.decode import decode_image, image_size, open_image
from store.images.dicom import dicom_header

from .dicom_files import dicom, ramp, written

CT = {"RescaleSlope": 1, "RescaleIntercept": -1024, "BitsStored": 12}


def grey(dataset, **options):
    """Return the decoded pixels of a dataset's file, (H, W)."""
    pixels = np.asarray(decode_image(written(dataset), **options))
    assert (pixels[..., 0] == pixels[..., 2]).all()
    return pixels[..., 0]


def by_pydicom(dataset, *, low, high):
    """Return what pydicom's own functions make of the pixels, their output range as 0 to 255."""
    shown = apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset).astype(float)
    return np.rint((shown - low) / (high - low) * 255)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("window", [(40, 400), (-600, 1500), ([40, 300], [400, 1500])])
def test_a_window_is_applied_as_pydicom_applies_it_and_of_several_the_first(function, window):
    center, width = window
    dataset = dicom(ramp(0, 4095), WindowCenter=center, WindowWidth=width, VOILUTFunction=function, **CT)
    pixels = grey(dataset)
    assert np.abs(pixels - by_pydicom(dataset, low=-1024, high=3071)).max() <= 1
    assert pixels.min() <= 70
    assert pixels.max() >= 200
    assert "window" in open_image(written(dataset)).changed


def test_signed_pixels_go_through_the_window_too():
    dataset = dicom(ramp(-1000, 1000, np.int16), WindowCenter=0, WindowWidth=1000)
    assert np.abs(grey(dataset) - by_pydicom(dataset, low=-(2**15), high=2**15 - 1)).max() <= 1


def table(values, *, first=0, bits):
    item = Dataset()
    item.LUTDescriptor, item.LUTData = [len(values), first, bits], list(values)
    return Sequence([item])


def test_a_voi_table_is_applied_as_pydicom_applies_it():
    voi = table((np.linspace(0, 1, 4096) ** 2 * 4095).astype(int).tolist(), bits=12)
    for more in ({}, {"RescaleSlope": 1, "RescaleIntercept": 0}):
        dataset = dicom(ramp(0, 4095), BitsStored=12, VOILUTSequence=voi, **more)
        dataset.VOILUTSequence[0]["LUTData"].VR = dataset.VOILUTSequence[0]["LUTDescriptor"].VR = "US"
        whole = dicom(ramp(0, 4095), BitsStored=12, VOILUTSequence=dataset.VOILUTSequence)
        assert np.abs(grey(dataset) - by_pydicom(whole, low=0, high=4095)).max() <= 1


def test_a_modality_table_comes_before_the_window():
    modality = table([4095 - value for value in range(4096)], bits=16)
    dataset = dicom(ramp(0, 4095), BitsStored=12, ModalityLUTSequence=modality, WindowCenter=2048, WindowWidth=4096)
    dataset.ModalityLUTSequence[0]["LUTData"].VR = dataset.ModalityLUTSequence[0]["LUTDescriptor"].VR = "US"
    pixels = grey(dataset)
    assert np.abs(pixels - by_pydicom(dataset, low=0, high=65535)).max() <= 1
    assert (pixels[0, 0], pixels[0, -1]) == (255, 0)


def test_monochrome1_is_the_negative_of_monochrome2():
    options = {"WindowCenter": 2048, "WindowWidth": 4096, "BitsStored": 12}
    positive = grey(dicom(ramp(0, 4095), **options))
    negative = grey(dicom(ramp(0, 4095), PhotometricInterpretation="MONOCHROME1", **options))
    assert np.array_equal(negative, 255 - positive)
    assert positive[0, 0] == 0


def test_without_a_window_a_ramp_stays_a_ramp_and_padding_is_no_part_of_it():
    values = ramp(300, 800, np.int16)
    wanted = np.rint((values - 300) / 500 * 255)
    assert np.array_equal(grey(dicom(values, BitsStored=12)), wanted)
    values[:, :2] = -2000
    for photometric, picture in (("MONOCHROME2", wanted), ("MONOCHROME1", 255 - wanted)):
        dataset = dicom(values, PhotometricInterpretation=photometric)
        dataset.add_new("PixelPaddingValue", "SS", -2000)
        pixels = grey(dataset)
        assert (pixels[:, :2] == 0).all()
        assert np.abs(pixels[:, 2:] - picture[:, 2:]).max() <= 9  # the ramp's least value is padding now


def test_the_pipelines_window_is_in_hounsfield_and_comes_before_the_files():
    dataset = dicom(ramp(0, 4095), WindowCenter=2000, WindowWidth=4000, **CT)
    units = ramp(0, 4095).astype(float) - 1024
    wanted = np.rint(((units + 160) / 400 * 255).clip(0, 255))
    assert np.array_equal(grey(dataset, window=(-160, 240)), wanted)
    assert np.array_equal(grey(dataset, window="minmax"), np.rint((units + 1024) / 4095 * 255))
    assert open_image(written(dataset), window="minmax").changed == "pixels are scaled by image.window"


def test_eight_bits_are_left_as_they_are():
    opened = open_image(written(dicom(ramp(0, 255, np.uint8))), window=(0, 10))
    assert opened.changed is None
    assert np.array_equal(np.asarray(opened.image), ramp(0, 255, np.uint8))


def test_an_enhanced_files_functional_groups_state_its_window():
    transformation, voi, group = Dataset(), Dataset(), Dataset()
    transformation.RescaleSlope, transformation.RescaleIntercept, transformation.RescaleType = 2, -1024, "HU"
    voi.WindowCenter, voi.WindowWidth = 40, 400
    group.PixelValueTransformationSequence, group.FrameVOILUTSequence = Sequence([transformation]), Sequence([voi])
    enhanced = dicom(ramp(0, 4095), BitsStored=12, SharedFunctionalGroupsSequence=Sequence([group]))
    plain = {"RescaleSlope": 2, "RescaleIntercept": -1024, "WindowCenter": 40, "WindowWidth": 400}
    assert np.array_equal(grey(enhanced), grey(dicom(ramp(0, 4095), BitsStored=12, **plain)))


def test_of_several_frames_the_first_is_taken():
    frames = np.stack([ramp(0, 255, np.uint8), np.zeros((4, 64), np.uint8)])
    dataset = dicom(frames[0], NumberOfFrames=2, PixelData=frames.tobytes())
    assert np.array_equal(grey(dataset), frames[0])


def compressed(image, syntax, file_format, **options):
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    dataset = dicom(np.asarray(image))
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([buffer.getvalue()])
    dataset["PixelData"].VR = "OB"
    return dataset, buffer.getvalue()


def test_colours_are_rgb_also_where_a_jpeg_holds_ycbcr():
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:, 8:] = (200, 30, 60)
    assert np.array_equal(np.asarray(decode_image(written(dicom(pixels)))), pixels)
    dataset, jpeg = compressed(Image.fromarray(pixels), JPEGBaseline8Bit, "JPEG", quality=95)
    dataset.PhotometricInterpretation = "YBR_FULL_422"
    plain = np.asarray(Image.open(io.BytesIO(jpeg)))
    assert np.abs(np.asarray(decode_image(written(dataset))).astype(int) - plain).max() <= 3


def test_jpeg_2000_of_sixteen_bits_is_read():
    image = Image.fromarray(ramp(0, 65535))
    dataset, _ = compressed(image, JPEG2000Lossless, "JPEG2000", irreversible=False, no_jp2=True)
    assert np.array_equal(grey(dataset), np.rint(ramp(0, 65535) / 257))


def test_what_cannot_be_read_within_bounds_says_why():
    image = Image.fromarray(ramp(0, 255, np.uint8))
    dataset, _ = compressed(image, JPEGBaseline8Bit, "JPEG")
    dataset.Rows = 3
    with pytest.raises(PairDecodeError, match="frame has 64 x 4 pixels, its header says 64 x 3"):
        decode_image(written(dataset))
    dataset, _ = compressed(image, JPEGLSLossless, "JPEG")
    with pytest.raises(PairDecodeError, match="compressed as JPEG-LS Lossless"):
        decode_image(written(dataset))
    dataset = dicom(ramp(0, 255, np.uint8))
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    with pytest.raises(PairDecodeError, match="deflated"):
        decode_image(written(dataset))
    huge = dicom(ramp(0, 255, np.uint8), Rows=60000, Columns=60000)
    with pytest.raises(PairDecodeError, match="60000 x 60000 pixels, more than the bound"):
        decode_image(written(huge))
    report = dicom(ramp(0, 255, np.uint8))
    for name in ("PixelData", "Rows", "Columns"):
        delattr(report, name)
    with pytest.raises(PairDecodeError, match="has no pixels"):
        decode_image(written(report))
    with pytest.raises(PairDecodeError, match="cannot be decoded"):
        decode_image(written(dicom(ramp(0, 255, np.uint8)))[:-100])


def test_the_size_is_read_from_the_header_alone():
    assert image_size(written(dicom(ramp(0, 255, np.uint8)))) == (64, 4)


def test_the_header_has_codes_and_sizes_and_nothing_of_the_patient():
    told = {
        "BodyPartExamined": "CHEST",
        "ImageType": ["ORIGINAL", "PRIMARY"],
        "SliceThickness": "2.5",
        "PixelSpacing": ["0.5", "0.5"],
    }
    kept_back = {
        "PatientBirthDate": "19500101",
        "PatientSex": "F",
        "PatientAge": "075Y",
        "StudyDescription": "for Dr Doe",
        "SeriesDescription": "Doe, chest",
        "InstitutionName": "Clinic Doe",
        "ReferringPhysicianName": "Doe^John",
        "AccessionNumber": "4711",
        "StudyDate": "20200101",
        "ImageComments": "Doe",
    }
    header = dicom_header(written(dicom(ramp(0, 255, np.uint8), **told, **kept_back)))
    assert header["Modality"] == "CT"
    assert header["BodyPartExamined"] == "CHEST"
    assert header["ImageType"] == ["ORIGINAL", "PRIMARY"]
    assert (header["SliceThickness"], header["PixelSpacing"]) == (2.5, [0.5, 0.5])
    assert (header["Rows"], header["Columns"]) == (4, 64)
    assert not {name for name in header if name.startswith("Patient")} | {*kept_back} & {*header}
    assert "Doe" not in str(header)
    assert "4711" not in str(header)
