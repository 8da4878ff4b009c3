"""Classifies a user's own images by prompts.

Axes: N images, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.special import softmax

from evaluate.config import fillable
from evaluate.datasets.entry import DatasetEntry
from evaluate.models.addresses import Address
from evaluate.models.opening import entry_of
from evaluate.tasks.zero_shot import prompt_ensemble
from extract.teacher_files.entry import TeacherEntry
from extract.teacher_files.geometry import fit
from extract.teacher_files.specs import teacher_spec
from extract.teachers.loading import load_teacher
from store.errors import ConfigError

TEMPLATE = "{label}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompts:
    """Classes to tell apart, with the prompts of each."""

    classes: Sequence[str]
    prompts: Sequence[Sequence[str]]

    @classmethod
    def of(cls, classes: Sequence[str], templates: Sequence[str]) -> Prompts:
        """Return prompts of templates that all classes share.

        Raises:
            ConfigError: there are fewer than two classes, one is repeated, or a template is not valid.
        """
        if len(set(classes)) < max(2, len(classes)):
            raise ConfigError(f"expected at least two different classes, got {', '.join(classes)}")
        try:
            checked = [fillable(template, fields=("label",)) for template in templates or [TEMPLATE]]
        except ValueError as error:
            raise ConfigError(f"--template: {error}") from error
        return cls(classes=classes, prompts=[[text.format(label=label) for text in checked] for label in classes])

    @classmethod
    def of_dataset(cls, entry: DatasetEntry) -> Prompts:
        """Return the classes and prompts of a dataset.

        Raises:
            ConfigError: it has none, or an image of it may have several classes.
        """
        if "zero_shot" not in entry.tasks:
            raise ConfigError(
                f"{entry.name} has no classes with prompts: it is for {', '.join(entry.tasks)}",
                hint="python -m evaluate list --task zero_shot shows datasets that have",
            )
        if entry.groups:
            raise ConfigError(
                f"{entry.name}: the classes of an image depend on its group, such as its modality",
                hint="name the classes of one group: --class NAME at least twice",
            )
        if entry.multi_label:
            raise ConfigError(
                f"{entry.name}: an image may show several of its classes, and shares that sum to one do not allow that",
                hint="ask for one at a time: --class 'no edema' --class edema",
            )
        return cls(classes=entry.class_names, prompts=entry.prompts())


def predict_images(
    images: Sequence[Image.Image],
    address: Address,
    prompts: Prompts,
    *,
    teachers: Mapping[str, TeacherEntry],
    device: str = "cpu",
) -> npt.NDArray[np.float64]:
    """Return the share of each class for each image of 8 bits a channel, (N, C): the softmax of the scaled cosines.

    Raises:
        ConfigError: the address is that of stored features, or the model encodes images alone.
        MMKDError: the model cannot be loaded.
    """
    if address.kind == "store":
        raise ConfigError(f"{address.text}: stored features cannot be computed for new images: name a model")
    entry = entry_of(address, teachers=teachers)
    spec = teacher_spec(address.name, entry)
    if "text" not in spec.sides:
        raise ConfigError(
            f"{address.text}: encodes images alone, and classes are told apart by prompts",
            hint="a linear probe classifies with such a model: python -m evaluate run --task linear_probe",
        )
    model = load_teacher(spec, entry, device=device)
    image_NE = model.encode_image(np.stack([fit(image, model.geometry) for image in images]))
    class_CE = prompt_ensemble(model.encode_text, prompts.prompts)
    logits_NC = model.logit_scale * image_NE.astype(np.float64) @ class_CE.astype(np.float64).T
    return np.asarray(softmax(logits_NC, axis=1))
