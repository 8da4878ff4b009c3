"""A teacher's entry in pipelines.yaml: where its files lie and come from, and the choices of its family.

docs/pipelines.md describes every key.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias
from urllib.parse import urlsplit

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from store.config.pipeline_file import ConfigPath, Section
from store.config.problems import it_has, suggest

from .address import LIBRARIES, filled, is_folder, is_published
from .geometry import Overrides

Family: TypeAlias = Literal["open_clip", "open_clip_file", "transformers", "timm", "pmc_clip", "medclip"]

FAMILY_OPTIONS: dict[str, frozenset[str]] = {
    "open_clip": frozenset({"quick_gelu"}),
    "open_clip_file": frozenset({"checkpoint", "architecture", "config", "quick_gelu"}),
    "transformers": frozenset({"feature"}),
    "timm": frozenset({"config"}),
    "pmc_clip": frozenset({"batch_norm", "checkpoint", "config", "heads", "text_feature", "text_mask"}),
    "medclip": frozenset({"config", "vision"}),
}
"""The optional keys that each family reads; another key would change nothing and is refused."""


class Download(Section):
    """Files of a teacher, as their authors publish them."""

    repo: str | None = None
    kind: Literal["model", "dataset"] = "model"
    revision: str | None = None
    url: ConfigPath | None = None
    files: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    into: Literal["text"] | None = None
    sha256: dict[str, str] = {}

    @model_validator(mode="after")
    def _one_origin(self) -> Download:
        if (self.repo is None) == (self.url is None):
            raise ValueError("give repo (of the Hugging Face Hub) or url (of a zip file)")
        if not self.files and not self.optional:
            raise ValueError("files names what to fetch; give at least one, or one in optional")
        if self.url and not self.url.startswith(("https://", "http://")):
            raise ValueError(f"url: expected an https:// address of a zip file, got '{self.url}'")
        return self

    @model_validator(mode="after")
    def _digests(self) -> Download:
        names = (*self.files, *self.optional, *([self.archive] if self.archive else []))
        for name, digest in self.sha256.items():
            if name not in names:
                raise ValueError(f"sha256: no file {name!r}{suggest(name, names)}; there are {', '.join(names)}")
            if not re.fullmatch(r"[0-9a-f]{64}", digest):
                raise ValueError(f"sha256: {name}: expected 64 digits of 0-9 and a-f, got {digest!r}")
        return self

    @property
    def archive(self) -> str | None:
        """The name of the zip file; None for a repository."""
        return urlsplit(self.url).path.rpartition("/")[2] if self.url else None

    @property
    def origin(self) -> str:
        """The place as people write it."""
        if self.url:
            return self.url
        kind = "hf" if self.kind == "model" else "hf dataset"
        return f"{kind} {self.repo}" + (f" @ {self.revision}" if self.revision else "")


FETCH = "python -m extract fetch --pipeline PIPELINE"
"""The command that gets the files of teachers; a reader of a message knows the pipeline."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Wanted:
    """A file that an entry names: its name at its origin, and its path on this machine."""

    item: Download
    name: str
    path: Path
    optional: bool


TUPLES = ("download", "preprocess")
"""Keys below which lists are tuples."""


class Choices(Section):
    """Settings that a teacher's authors leave open."""

    checkpoint: str | None = None
    quick_gelu: bool | None = None
    heads: int | None = Field(default=None, gt=0)
    batch_norm: Literal["stored", "per_image"] | None = None
    text_feature: Literal["pooler", "cls"] | None = None
    text_mask: bool | None = None
    vision: Literal["swin", "resnet50"] | None = None
    feature: Literal["pooler", "cls", "mean"] | None = None
    precision: Literal["fp32", "tf32", "bf16", "fp16"] | None = None
    compile: Literal["inductor", "eager"] | None = None
    channels_last: bool | None = None
    attention: Literal["flash", "efficient", "cudnn", "math"] | None = None
    preprocess: Overrides | None = None
    open_clip: str | None = None
    transformers: str | None = None
    timm: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_address(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        if values.get("family") == "clip":
            raise ValueError(f"family clip is written as an address now: {_as_address(values)}")
        # What a validator returns is read as Python values, in which a strict tuple is no list.
        return {key: _tuples(value) if key in TUPLES else value for key, value in filled(values).items()}


class Variant(Choices):
    """Another reading of a teacher, which ``extract golden`` tries if the entry's own does not match.

    Settings that are left out are the teacher's.
    """

    folder: ConfigPath | None = None
    family: Family | None = None
    architecture: str | None = None
    download: tuple[Download, ...] = ()
    licence: str | None = None
    licence_read: dt.date | None = Field(default=None, strict=False)


def _needs_a_place(schema: dict[str, Any]) -> None:
    """Say in an entry's JSON schema that its address, or else its folder, has to be stated (`_with_folders`)."""
    schema["required"].remove("folder")
    schema["anyOf"] = [{"required": [name]} for name in ("folder", *LIBRARIES)]


class TeacherEntry(Choices):
    """A teacher in pipelines.yaml: the place of its model, its loading and its licence.

    Attributes:
        embed_dim: None where the model's own configuration is to say it.
    """

    model_config = ConfigDict(json_schema_extra=_needs_a_place)

    folder: ConfigPath = Field(examples=["weights/mine"])
    embed_dim: int | None = Field(default=None, gt=0)
    batch_size: int | None = Field(default=None, gt=0)
    family: Family = "open_clip"
    source: str | None = None
    licence: str | None = None
    licence_read: dt.date | None = Field(default=None, strict=False)
    architecture: str | None = None
    config: dict[str, Any] | None = None
    download: tuple[Download, ...] = ()
    variants: dict[str, Variant] = {}

    @model_validator(mode="after")
    def _makes_sense(self) -> TeacherEntry:
        self._check_options()
        for name, reading in self.readings().items():
            try:
                reading._check_options()  # noqa: SLF001 - another of this class
            except ValueError as error:
                raise ValueError(f"variants.{name}: {error}") from None
        return self

    def _check_options(self) -> None:
        allowed = FAMILY_OPTIONS[self.family]
        every = frozenset[str]().union(*FAMILY_OPTIONS.values())
        strange = sorted(name for name in every - allowed if getattr(self, name) is not None)
        if strange:
            raise ValueError(f"family {self.family} has no {', '.join(strange)}{it_has(strange[0], sorted(allowed))}")
        if self.family in ("pmc_clip", "medclip") and self.embed_dim is None:
            raise ValueError(f"family {self.family} needs embed_dim, because no file states it")
        if self.family in ("transformers", "timm") and getattr(self, self.family) is None:
            raise ValueError(f"family {self.family} is stated by an address: {self.family}: OWNER/NAME, or a folder")
        if self.family == "open_clip_file":
            if not self.checkpoint and not self.open_clip:
                raise ValueError("family open_clip_file needs checkpoint, the name of the weights file")
            if (self.architecture is None) == (self.config is None):
                raise ValueError("family open_clip_file needs architecture (a name) or config (a model_cfg)")

    def readings(self) -> dict[str, TeacherEntry]:
        """Return the entry's variants as entries, by name."""
        return {name: self.read_as(variant) for name, variant in self.variants.items()}

    def read_as(self, variant: Variant) -> TeacherEntry:
        """Return the entry with a variant's settings instead of its own."""
        stated = {key: getattr(variant, key) for key in variant.model_fields_set}
        if variant.family:
            # The choices of the teacher's own family, and what replaces its preprocessing, say nothing about another.
            own = frozenset({"preprocess"}).union(*FAMILY_OPTIONS.values(), LIBRARIES)
            stated = dict.fromkeys(own) | stated
        if variant.download:
            # Another repository may have another licence.
            stated = {"licence": None, "licence_read": None} | stated
        return self.model_copy(update={**stated, "variants": {}})

    @property
    def origin(self) -> str | None:
        """The origin of the weights as people write it."""
        return self.source or ", ".join(dict.fromkeys(item.origin for item in self.download)) or None

    def wanted(self) -> Iterator[Wanted]:
        """Yield every file that the entry names, present or not."""
        for item in self.download:
            folder = Path(self.folder) / (item.into or "")
            for name in (*item.files, *item.optional):
                yield Wanted(item=item, name=name, path=folder / name, optional=name in item.optional)


def _tuples(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _tuples(inner) for key, inner in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _as_address(values: Mapping[str, Any]) -> str:
    repos = [item.get("repo") for item in values.get("download") or () if isinstance(item, Mapping)]
    address = next((repo for repo in repos if repo), None)
    if address:
        return f"transformers: {address}"
    folder = str(values.get("folder"))
    return f"transformers: {folder if is_folder(folder) else f'./{folder}'}"


def _with_folders(values: Any) -> Any:
    """Return a pipeline's teachers, each, and each variant, with a folder if its address says no other."""
    if not isinstance(values, Mapping):
        return values
    return {name: _with_folder(entry, f"weights/{name}") for name, entry in values.items()}


def _with_folder(entry: Any, folder: str) -> Any:
    if not isinstance(entry, Mapping):
        return entry
    found = {"folder": folder, **entry} if is_published(entry) else dict(entry)
    if isinstance(variants := entry.get("variants"), Mapping):
        # Files of another model must not lie among the teacher's own.
        found["variants"] = {name: _with_folder(one, f"{folder}_{name}") for name, one in variants.items()}
    return found


Teachers = Annotated[dict[str, TeacherEntry], BeforeValidator(_with_folders)]
"""A pipeline's teachers by name. One whose address is no folder lies in ``weights/NAME``, unless it states a folder."""
