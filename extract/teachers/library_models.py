"""Runs models that transformers or timm builds from their own configuration: CLIP, SigLIP, encoders of images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.utils import logging as transformers_logging

from extract.teacher_files.entry import TeacherEntry
from extract.teacher_files.library_models import CONFIG_FILE, OUTPUTS, WITHOUT_CLASS_TOKEN
from extract.teacher_files.states import State
from extract.teacher_files.text_tower import read_json, tokenizer_folder
from store.errors import TeacherError
from store.format.records import Spec
from store.texts.tokens import CaptionTokenizer

from .base import FrozenTeacher, load_tokenizer


class _TransformersTeacher(FrozenTeacher):
    """A model of transformers whose weights the library's own rules rename, as between its versions."""

    _heads: tuple[str, ...] = ()
    """Starts of the names of tensors in files that the features do not need."""

    @classmethod
    def architecture(cls, spec: Spec, entry: TeacherEntry) -> nn.Module:
        """See `FrozenTeacher.architecture`."""
        path = Path(entry.folder) / CONFIG_FILE
        config = read_json(path)
        try:
            model: nn.Module = AutoModel.from_config(
                CONFIG_MAPPING[config["model_type"]].from_dict(config), **cls._options(spec)
            )
        except Exception as error:  # the libraries raise any exception on configurations that they cannot build
            raise TeacherError(f"teacher {spec.teacher}: {path} cannot be loaded: {error}") from error
        return model.float()

    @classmethod
    def _options(cls, spec: Spec) -> dict[str, Any]:
        del spec
        return {}

    def _renamed(self, state: State, model: nn.Module) -> State:
        if state.keys() == model.state_dict().keys():
            return state
        options, built = self._options(self.spec), type(model)
        try:
            with _silent():
                loaded, found = built.from_pretrained(  # type: ignore[attr-defined]
                    None, config=model.config, state_dict=dict(state), output_loading_info=True, **options
                )
        except RuntimeError as error:  # tensors of another shape
            raise TeacherError(
                f"teacher {self.name}: cannot be loaded: the weights do not fit the model: {error}",
                hint="weights and configuration must be those of one model; is it another variant of this teacher?",
            ) from error
        heads = (*self._heads, *(("pooler.",) if options else ()))
        prefix = f"{built.base_model_prefix}."  # type: ignore[attr-defined]
        strange = {
            name: state[name]
            for name in found["unexpected_keys"]
            if name in state and not name.removeprefix(prefix).startswith(heads)
        }
        named = loaded.state_dict()
        return {name: named[name] for name in named if name not in found["missing_keys"]} | strange


@contextmanager
def _silent() -> Iterator[None]:
    """Keep transformers from reporting what `load_strictly` reports, and from drawing a bar."""
    verbosity, bar = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bar:
            transformers_logging.enable_progress_bar()


class ClipTeacher(_TransformersTeacher):
    """A CLIPModel of transformers: a folder with ``config.json``, weights and tokenizer (PLIP, PubMedCLIP)."""

    _computed = (".position_ids",)
    _ids_alone = False

    def _read_tokenizer(self, spec: Spec, entry: TeacherEntry, model: nn.Module) -> CaptionTokenizer:
        text: Any = model.config.text_config  # type: ignore[union-attr]
        return load_tokenizer(
            AutoTokenizer,
            tokenizer_folder(Path(entry.folder)),
            vocabulary=text.vocab_size,
            context=text.max_position_embeddings,  # PubMedCLIP's tokenizer states no length
            teacher=spec.teacher,
            # SigLIP's models learned lower case; tokenizers of some versions leave that to their caller.
            clean=str.lower if spec.tokenizer.get("lower_case") else str,
            ids_alone=self._ids_alone,
        )

    def _image_features(self, normal_BCHW: Tensor) -> Tensor:
        return _projected(self._model.get_image_features(pixel_values=normal_BCHW))  # type: ignore[operator]

    def _text_features(self, ids_BL: Tensor, lengths_B: list[int]) -> Tensor:
        # CLIP's tower is causal and pools at the first end token; SigLIP's reads its padding, as it was trained.
        del lengths_B
        return _projected(self._model.get_text_features(input_ids=ids_BL))  # type: ignore[operator]


class SiglipTeacher(ClipTeacher):
    """A SiglipModel of transformers: SigLIP, SigLIP2 of a fixed size, MedSigLIP."""

    _ids_alone = True


class VisionTeacher(_TransformersTeacher):
    """A vision model of transformers: DINOv2, DINOv3, RAD-DINO, ViT, Swin; images alone."""

    _computed = (".relative_position_index", ".relative_coords_table")
    _heads = ("classifier.", "decoder.")

    @classmethod
    def _options(cls, spec: Spec) -> dict[str, Any]:
        pooled = spec.architecture["family"] in ("vit", *WITHOUT_CLASS_TOKEN)
        return {"add_pooling_layer": False} if pooled and spec.output != OUTPUTS["pooler"] else {}

    def _image_features(self, normal_BCHW: Tensor) -> Tensor:
        output = self._model(pixel_values=normal_BCHW)
        if self.spec.output == OUTPUTS["pooler"]:
            pooled_BD: Tensor = output.pooler_output
            return pooled_BD
        tokens_BLD: Tensor = output.last_hidden_state
        if self.spec.output == OUTPUTS["cls"]:
            return tokens_BLD[:, 0]
        config: Any = self._model.config
        first = 0 if config.model_type in WITHOUT_CLASS_TOKEN else 1 + getattr(config, "num_register_tokens", 0)
        return tokens_BLD[:, first:].mean(dim=1)


def _projected(output: Any) -> Tensor:
    # transformers 4 returns the projected feature, 5 an output object whose pooler_output it is.
    features_BD: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    return features_BD


class TimmTeacher(FrozenTeacher):
    """A model of timm without its classifier; images alone."""

    @classmethod
    def architecture(cls, spec: Spec, entry: TeacherEntry) -> nn.Module:
        """See `FrozenTeacher.architecture`."""
        try:
            model: nn.Module = timm.create_model(
                f"local-dir:{entry.folder}", pretrained=False, **(entry.config or {}), num_classes=0
            )
        except Exception as error:  # as above
            raise TeacherError(
                f"teacher {spec.teacher}: timm cannot build {spec.architecture['architecture']}: {error}",
                hint=f"correct teachers.{spec.teacher}.config, the arguments of timm.create_model",
            ) from error
        return model

    def _image_features(self, normal_BCHW: Tensor) -> Tensor:
        features_BD: Tensor = self._model(normal_BCHW)
        return features_BD

    def _renamed(self, state: State, model: nn.Module) -> State:
        # The classifier's name is timm's; a file may have it though the model is built without.
        stated: Any = model.pretrained_cfg.get("classifier") or ()  # type: ignore[operator, union-attr]
        heads = tuple(f"{name}." for name in ((stated,) if isinstance(stated, str) else stated))
        own = model.state_dict()
        return {name: value for name, value in state.items() if name in own or not name.startswith(heads)}
