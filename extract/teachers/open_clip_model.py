"""Runs open_clip models, from a folder or from a named architecture and a checkpoint file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import open_clip
from open_clip.hf_model import HFTextEncoder
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from torch import Tensor, nn

from extract.teacher_files.entry import TeacherEntry
from extract.teacher_files.model_folder import CONFIG_NAME, open_clip_config
from extract.teacher_files.text_tower import KNOWN_BERTS, TEXT_FOLDER, bert_sizes, tokenizer_folder
from store.console import without_root_warnings
from store.errors import TeacherError, WeightsNotFoundError
from store.format.records import Spec
from store.texts.tokens import CaptionTokenizer, open_clip_tokenizer

from .base import FrozenTeacher, refusing_tokenizer


class OpenClipTeacher(FrozenTeacher):
    """An open_clip model, of family ``open_clip`` or ``open_clip_file``."""

    @classmethod
    def architecture(cls, spec: Spec, entry: TeacherEntry) -> nn.Module:
        """See `FrozenTeacher.architecture`."""
        config = open_clip_config(spec.teacher, entry)
        text = config["model_cfg"]["text_cfg"]
        with TemporaryDirectory(prefix="mmkd-teacher-") as temporary:
            staged = Path(temporary)
            if "hf_model_name" in text:
                text["hf_model_name"] = str(_stage_bert(spec.teacher, entry, text["hf_model_name"], staged))
            (staged / CONFIG_NAME).write_text(json.dumps(config))
            with _refusing(spec.teacher, entry), without_root_warnings():
                model: nn.Module = open_clip.create_model(
                    f"local-dir:{staged}", load_weights=False, pretrained_text=False
                )
        return model

    def _read_tokenizer(self, spec: Spec, entry: TeacherEntry, model: nn.Module) -> CaptionTokenizer:
        tower = getattr(model, "text", model)
        self._is_bert = isinstance(tower, HFTextEncoder)
        text = open_clip_config(spec.teacher, entry)["model_cfg"]["text_cfg"]
        options = {"context_length": text.get("context_length", 77), **text.get("tokenizer_kwargs", {})}
        # Not open_clip.get_tokenizer, which needs tokenizer and configuration in one folder.
        with _refusing(spec.teacher, entry):
            if text.get("hf_tokenizer_name"):
                folder, mode = tokenizer_folder(Path(entry.folder)), text.get("tokenizer_mode")
                own = HFTokenizer(str(folder), tokenizer_mode=mode, **options)
                size = len(own.tokenizer)
            else:
                own = SimpleTokenizer(**options)
                size = own.vocab_size
        known = getattr(tower, "vocab_size", None)
        if known is not None and size != known:
            raise TeacherError(
                f"teacher {spec.teacher}: cannot be loaded: the tokenizer has {size} tokens, the model {known}",
                hint="the tokenizer is another model's, or a file of it is missing",
            )
        with refusing_tokenizer(spec.teacher, entry.folder):
            return open_clip_tokenizer(own)

    def _image_features(self, normal_BCHW: Tensor) -> Tensor:
        features_BD: Tensor = self._model.encode_image(normal_BCHW)  # type: ignore[operator]
        return features_BD

    def _text_features(self, ids_BL: Tensor, lengths_B: list[int]) -> Tensor:
        # A BERT tower masks its padding; columns of padding alone only cost time.
        used_BL = ids_BL[:, : max(lengths_B)] if self._is_bert else ids_BL
        features_BD: Tensor = self._model.encode_text(used_BL)  # type: ignore[operator]
        return features_BD


@contextmanager
def _refusing(name: str, entry: TeacherEntry) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ValueError, OSError, TypeError, AssertionError) as error:
        if isinstance(error, TeacherError):
            raise
        raise TeacherError(
            f"teacher {name}: {entry.folder} cannot be loaded: {error}",
            hint=f"weights, {CONFIG_NAME} and tokenizer files must all be there and belong together",
        ) from error


def _stage_bert(name: str, entry: TeacherEntry, stated: str, staged: Path) -> Path:
    # open_clip would ask the hub for a configuration by name, and cannot resolve a relative path.
    if Path(stated).is_absolute():
        return Path(stated)
    if not (Path(entry.folder) / TEXT_FOLDER / "config.json").is_file() and stated not in KNOWN_BERTS:
        raise WeightsNotFoundError(
            f"teacher {name}: its text tower is {stated}, whose config.json is not in {entry.folder}/{TEXT_FOLDER}",
            hint=f"put config.json of {stated} there",
        )
    sizes = bert_sizes(Path(entry.folder), KNOWN_BERTS.get(stated, {}))
    folder = staged / TEXT_FOLDER
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", **sizes}))
    return folder
