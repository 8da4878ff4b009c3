"""Every block of docs/corpora.md reads small files in the layout that it is about."""

from __future__ import annotations

import gzip
import io
import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from store.config.yaml_tree import parse
from store.corpus.image_source import ImageSource
from store.corpus.section import Corpus
from store.index.merge import read_corpus
from tests.store.images.dicom_files import dicom as dicom_of
from tests.store.images.dicom_files import written

DOCUMENT = Path(__file__).parents[3] / "docs/corpora.md"
BLOCKS = {
    name: settings
    for block in re.findall(r"^```yaml\n(.*?)^```$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    for name, settings in parse(block).data.items()
}


def png(number=0):
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4), (number, 90, 90)).save(buffer, "PNG")
    return buffer.getvalue()


def parquet(rows):
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def npz(**arrays):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


LAYOUTS = {}
"""By the name of a block: the files of its layout, and the rows that it gives."""


def layout(function):
    LAYOUTS[function.__name__] = function
    return function


@layout
def webdataset(write_tar):
    members = {"0.jpg": png(), "0.json": b'{"url": "http://a/0"}', "0.txt": b"a", "1.jpg": png(1), "1.txt": b"b"}
    write_tar("laion/00000.tar", members.items())
    return {}, [{"key": "0", "caption": "a", "source": "http://a/0"}, {"key": "1", "caption": "b", "source": None}]


MEMBERS = {"a/0.jpg": png(), "a/0.txt": b"first", "a/0.json": b'{"split": "val"}', "b/0.png": png(1), "b/0.txt": b"c"}


@layout
def folder(_):
    rows = [{"key": "a/0", "caption": "first", "split": "val"}, {"key": "b/0", "caption": "c", "split": None}]
    return {f"scans/{name}": content for name, content in MEMBERS.items()}, rows


@layout
def zip_archive(_):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        for name, member in MEMBERS.items():
            file.writestr(name, member)
    rows = [{"key": "a/0", "caption": "first", "split": "val"}, {"key": "b/0", "caption": "c", "split": None}]
    return {"scans.zip": content.getvalue()}, [{**row, "modality": "ultrasound"} for row in rows]


@layout
def img2dataset_parquet(_):
    rows = [
        {"key": "000000000", "status": "success", "url": "http://a/0", "caption": "a", "jpg": png(), "width": 6},
        {
            "key": "000000001",
            "status": "failed_to_download",
            "url": "http://a/1",
            "caption": "b",
            "jpg": None,
            "width": 0,
        },
    ]
    found = [{"key": row["key"], "caption": row["caption"], "source": row["url"]} for row in rows]
    return {"laion/00000.parquet": parquet(rows)}, [found[0], {**found[1], "image_sha256": None}]


@layout
def csv_plain(_):
    return (
        {"scans/pairs.csv": 'image,caption\n0.png,"a, b"\n1.png,c\n', "scans/0.png": png(), "scans/1.png": png(1)},
        [{"key": "pairs-00000000", "caption": "a, b"}, {"caption": "c"}],
    )


@layout
def csv_other(_):
    files = {"scans/list.txt": "7;a, b;f\n8;c;m\n", "scans/images/7.jpg": png(), "scans/images/8.jpg": png(1)}
    fixed = {"modality": "xray", "license": "CC-BY-4.0"}
    return files, [{"key": "7", "caption": "a, b", **fixed}, {"key": "8", "caption": "c", **fixed}]


@layout
def pmc_oa(_):
    line = {"image": "PMC1_Fig1_0.jpg", "caption": "a", "alignment_type": "caption_and_image", "alignment_score": 0.9}
    folder = "pmc_oa/caption_T060_filtered_top4_sep_v0_subfigures"
    return (
        {"pmc_oa/pmc_oa.jsonl": json.dumps(line), f"{folder}/PMC1_Fig1_0.jpg": png()},
        [
            {
                "key": "PMC1_Fig1_0.jpg",
                "caption": "a",
                "uri": "caption_T060_filtered_top4_sep_v0_subfigures/PMC1_Fig1_0.jpg",
            }
        ],
    )


@layout
def r2gen(_):
    record = {"id": "CXR1", "report": "a", "image_path": ["CXR1/0.png", "CXR1/1.png"], "split": "train"}
    document = {"train": [record], "val": [], "test": [{**record, "id": "CXR2", "split": "test"}]}
    files = {f"iu_xray/images/CXR1/{number}.png": png(number) for number in range(2)}
    rows = [{"key": "CXR1", "split": "train"}, {"key": "CXR2", "split": "test"}]
    return (
        {"iu_xray/annotation.json": json.dumps(document), **files},
        [{**row, "caption": "a", "modality": "xray", "uri": "images/CXR1/0.png"} for row in rows],
    )


@layout
def coco(_):
    document = {
        "images": [{"id": 139, "file_name": "000000000139.jpg", "height": 4, "width": 6}],
        "annotations": [{"image_id": 139, "id": number, "caption": text} for number, text in enumerate("ab")],
    }
    files = {"coco/annotations/captions_val2017.json": json.dumps(document), "coco/val2017/000000000139.jpg": png()}
    return files, [{"key": "139#1", "caption": "a"}, {"key": "139#2", "caption": "b"}]


@layout
def quilt(_):
    head = ",caption,image_path,subset,split,pathology,roi_text,noisy_text,corrected_text,med_umls_ids,magnification\n"
    line = "0,\"whole, long\",x_1.jpg,quilt,train,['Breast'],['roi'],noisy,\"['a', 'b']\",[],1.0\n"
    rows = [{"caption": text, "source": "quilt", "split": "train", "modality": "histopathology"} for text in "ab"]
    return {"quilt/quilt_1M_lookup.csv": head + line, "quilt/quilt_1m/x_1.jpg": png()}, rows


@layout
def rocov2(_):
    files, rows = {"rocov2/license_information.csv": "ID, PMCID, Attribution, Link\n"}, []
    for number, split in enumerate(("test", "train", "valid")):
        name = f"ROCOv2_2023_{split}_000001"
        files |= {
            f"rocov2/{split}_captions.csv": f"ID,Caption\n{name},caption {number}\n",
            f"rocov2/{split}_concepts.csv": f"ID,CUIs\n{name},C0000726;C0040405\n",
            f"rocov2/{split}_concepts_manual.csv": f"ID,CUIs\n{name},C0040405\n",
            f"rocov2/{split}/{name}.jpg": png(number),
        }
        files["rocov2/license_information.csv"] += f"{name},PMC{number},CC BY [A et al.],http://a\n"
        rows.append({"key": name, "caption": f"caption {number}", "split": split, "modality": "ct"})
        rows[-1]["license"] = "CC BY [A et al.]"
    return files, rows


SPLITS = "dicom_id,study_id,subject_id,split\nd1-a,50414267,10000032,train\nd2-b,53189527,11000032,validate\n"
MIMIC_IMAGES = {
    "mimic/files/p10/p10000032/s50414267/d1-a.jpg": png(),
    "mimic/files/p11/p11000032/s53189527/d2-b.jpg": png(1),
}


@layout
def mimic_cxr(_):
    metadata = "dicom_id,subject_id,study_id,ViewPosition\nd1-a,10000032,50414267,PA\nd2-b,11000032,53189527,LATERAL\n"
    sections = (
        'study,impression,findings,last_paragraph,comparison\ns50414267,"No acute\ndisease.",Clear.,,\n'
        "s53189527,Effusion.,,,\n"
    )
    files = {
        "mimic/mimic-cxr-2.0.0-split.csv.gz": gzip.compress(SPLITS.encode()),
        "mimic/mimic-cxr-2.0.0-metadata.csv.gz": gzip.compress(metadata.encode()),
        "mimic/mimic_cxr_sectioned.csv": sections,
        **MIMIC_IMAGES,
    }
    rows = [
        {"key": "d1-a", "caption": "Clear. No acute\ndisease.", "split": "train", "source": "PA", "modality": "xray"},
        {"key": "d2-b", "caption": "Effusion.", "split": "val", "source": "LATERAL", "modality": "xray"},
    ]
    return files, rows


@layout
def mimic_cxr_reports(_):
    files = {
        "mimic/mimic-cxr-2.0.0-split.csv.gz": gzip.compress(SPLITS.encode()),
        "mimic/files/p10/p10000032/s50414267.txt": " FINAL REPORT\n Clear.\n",
        "mimic/files/p11/p11000032/s53189527.txt": "Effusion.",
        **MIMIC_IMAGES,
    }
    return files, [{"key": "d1-a", "caption": "FINAL REPORT\n Clear."}, {"key": "d2-b", "caption": "Effusion."}]


@layout
def imagefolder(_):
    files, rows = {}, []
    for number, split in enumerate(("train", "validation")):
        files |= {
            f"data/{split}/metadata.csv": f"file_name,text\n{number}.png,caption {number}\n",
            f"data/{split}/{number}.png": png(number),
        }
        rows.append({"caption": f"caption {number}", "split": split, "key": f"{split}/{number}.png"})
    return files, rows


@layout
def dicom(_):
    files, rows = {}, []
    for number, (code, modality) in enumerate((("CT", "ct"), ("CR", "xray"))):
        pixels = np.arange(24, dtype=np.uint16).reshape(4, 6)
        files[f"ct/{number}.dcm"] = written(dicom_of(pixels, Modality=code, StudyDescription="of Jane Doe"))
        files[f"ct/{number}.txt"] = f"report {number}"
        rows.append({"key": str(number), "caption": f"report {number}", "modality": modality})
    return files, rows


@layout
def hugging_face(_):
    files, rows = {}, []
    for number, (split, name) in enumerate((("train", "train"), ("validation", "val"))):
        boxed = {"bytes": png(number), "path": f"{number}.png"}
        files[f"data/{split}-00000-of-00001.parquet"] = parquet([{"image": boxed, "text": f"caption {number}"}])
        rows.append({"caption": f"caption {number}", "split": name})
    return files, rows


@layout
def hugging_face_lists(_):
    boxed = [{"bytes": png(number), "path": None} for number in range(3)]
    rows = [{"images": boxed[:2], "texts": ["a", "b"]}, {"images": boxed[2:], "texts": ["c"]}]
    return {"data/0.parquet": parquet(rows)}, [{"caption": "a"}, {"caption": "b"}, {"caption": "c"}]


@layout
def medmnist(_):
    arrays = {
        **{f"{split}_images": np.full((2, 6, 4), number, np.uint8) for number, split in enumerate(("train", "val"))},
        **{f"{split}_labels": np.array([[0], [1]]) for split in ("train", "val")},
    }
    captions = ["chest x-ray, normal", "chest x-ray, pneumonia"]
    rows = [{"caption": text, "split": split} for split in ("train", "val") for text in captions]
    return {"medmnist/pneumoniamnist.npz": npz(**arrays)}, [{**row, "modality": "xray"} for row in rows]


def test_every_block_has_a_layout():
    assert set(BLOCKS) == set(LAYOUTS)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_block_reads_the_files_of_its_layout(name, tmp_path, write_tar):
    files, expected = LAYOUTS[name](write_tar)
    for path, content in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content if isinstance(content, bytes) else content.encode())
    corpus = Corpus.model_validate_json(json.dumps(BLOCKS[name]), context={"folder": tmp_path})
    index = read_corpus(corpus)
    rows = index.table.to_pylist()
    assert [{key: row[key] for key in wanted} for row, wanted in zip(rows, expected, strict=True)] == expected
    source = ImageSource(index.root, allow=corpus.readable())
    for row, wanted in zip(rows, expected, strict=True):
        if "image_sha256" in wanted:
            assert row["uri"] is None
        else:
            source.fetch(row["uri"], row["member"], sha256=row["image_sha256"])
            assert (row["width"], row["height"]) == (4 if name == "medmnist" else 6, 6 if name == "medmnist" else 4)
