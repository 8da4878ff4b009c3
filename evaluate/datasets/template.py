"""A commented YAML file from which a user's own dataset begins, for each format."""

from __future__ import annotations

from evaluate.datasets.formats.rules import FORMATS

HEAD = """\
# A dataset of your own. Change what is below, then: python -m evaluate check {path}
# Paths are relative to the data root (--data-root DIR, MMKD_DATA, or evaluate.data_root in pipelines.yaml).
name: {name}  # as the file is called
title: {name}
# One of xray, ct, mri, ultrasound, fundus, oct, histopathology, dermatology, endoscopy, mixed, other.
modality: xray
"""

FOOT = """\
source: https://example.org/where-it-comes-from
licence: not stated
access: open  # or registration, agreement
get: say here what to fetch and where to put it; it is shown while the files are missing
citation: who made it, and when
# digests: {{{name}/FILE: "sha256:..."}}  # checked by: python -m evaluate check --deep
# Whose decision each part is: official (of the dataset's authors), inferred, or ours.
provenance: {provenance}
# allow: [shared_patients]  # what is refused otherwise: a patient in two splits; empty_classes: one without a test item
# max_excluded: 0.01  # share of items that may be missing or unreadable
# notes: what a reader of results should know
"""

CLASSES = """\
# What the files call each class, and what prompts say. All classes, in the order of the scores, also rare ones.
classes:
  "0": normal lungs
  "1": pneumonia
positive: "1"  # of two classes, the one that is looked for
# label_map: {{viral: "1", bacterial: "1"}}  # further labels, and the class they count as
# ignore_labels: [unknown]  # items with these are left out, and counted
templates:  # prompts; {{label}} is what the class is called
  - "a chest X-ray showing {{label}}"
"""

CLASSIFY = """\
# Each task with the metric that stands for it.
tasks:
  zero_shot: {primary: auroc}
  linear_probe: {primary: auroc}
"""

BY_FIELD = """\
# A column says which split an item is in; usual spellings are known, others are mapped: values: {dev2: val}.
# Others: {rule: files, train: [PATTERN], test: [PATTERN]}; {rule: digest, by: patient, salt: NAME}; {rule: all_test}.
split: {rule: field}
"""

BY_DIGEST = """\
# A digest of the patient decides, the same everywhere: 70 % train, 10 % val, the rest test. by: image, patient or id.
# Others: {rule: field, ...} with fields.split; {rule: files, train: [PATTERN], test: [PATTERN]}; {rule: all_test}.
split: {rule: digest, by: patient, salt: change-me}
"""

LABELLED_ORIGIN = "{choice: ours, classes: official, split: ours, templates: ours, metrics: ours}"
PLAIN_ORIGIN = "{choice: ours, split: ours, metrics: ours}"

READ = {
    "folders": """\
# What a path says of an image stands in braces; those parts are the fields.
read:
  format: folders
  files: ["{name}/{{split}}/{{label}}/*.png"]
fields: {{label: label, split: split}}  # patient: patient, if the path has it
""",
    "table": """\
# A table (CSV, TSV, Parquet, JSON lines, JSON list) with a record per image.
read:
  format: table
  files: [{name}/images.csv]
  # The column with the path, relative to the table, or with the bytes; or a path of columns: "{name}/{{image_id}}.png".
  image: image
fields: {{label: label, split: split}}  # id, patient, caption: further columns
""",
    "webdataset": """\
# Tars with KEY.jpg and KEY.json (and KEY.txt); json.label is the field label of the JSON.
read:
  format: webdataset
  files: ["{name}/*.tar"]
fields: {{id: key, label: json.label, split: json.split}}  # caption: txt
""",
    "medmnist": """\
# An npz with train_images, train_labels and the same of val and test.
read:
  format: medmnist
  files: [{name}/{name}.npz]
""",
    "vqa_json": """\
# Questions as a JSON list, and where the image of each is.
read:
  format: vqa_json
  files: [{name}/questions.json]
  image: "{name}/images/{{image_name}}"  # with images: [TARS] it is a name within the tars
# An image stands for a patient, so that no image is in two splits. Without answer_type, yes and no are closed.
fields: {{question: question, answer: answer, answer_type: answer_type, patient: image_name}}
""",
    "bags": """\
# Features of the tiles of each slide: an array (tiles, width) in .npy, .npz, .h5 or .zarr.
read:
  format: bags
  files: [{name}/slides.csv]  # a record per slide
  bags: "{name}/features/{{slide}}.h5"
  array: features
  per: slide  # or patient: all slides of one together
fields: {{id: slide, label: label, patient: patient}}
""",
    "survival_table": """\
# A table of patients: time, event, and features as numbers.
read:
  format: survival_table
  files: [{name}/patients.csv]
  features: [feature_1, feature_2]
fields: {{id: patient, patient: patient, time: time, event: event}}
event_values: ["1"]  # the event was seen
censored_values: ["0"]  # it was not, until then
""",
}

OTHER_TASKS = {
    "vqa_json": "vqa: {primary: vqa_overall}",
    "bags": "diagnosis: {primary: auroc}",
    "survival_table": "survival: {primary: harrell_c}",
}
"""Tasks of the formats that are not for zero-shot classification and linear probes."""


def template(name: str, *, format_: str, path: str) -> str:
    """Return a commented dataset file that is valid as it is.

    Args:
        format_: one of ``formats.rules.FORMATS``.
        path: where the file will lie, for the command in its first line.
    """
    if format_ not in FORMATS:
        raise ValueError(f"unknown format {format_!r}")
    labelled = format_ not in {"vqa_json", "survival_table"}
    other = OTHER_TASKS.get(format_)
    by_patient = format_ in {"vqa_json", "bags", "survival_table"}
    parts = [
        HEAD.format(name=name, path=path),
        f"# Each task with the metric that stands for it.\ntasks:\n  {other}\n" if other else CLASSIFY,
        READ[format_].format(name=name),
        BY_DIGEST if by_patient else BY_FIELD,
        CLASSES.format() if labelled else "",
        FOOT.format(name=name, provenance=LABELLED_ORIGIN if labelled else PLAIN_ORIGIN),
    ]
    return "".join(parts)
