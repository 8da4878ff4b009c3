"""Reads a model's address in its library's own words: where its files lie, or which repository has them."""

from __future__ import annotations

import functools
import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, TypeAlias

from store.config.problems import it_has
from store.errors import ConfigError
from store.io.weight_files import TOKENIZER_FILES

Library: TypeAlias = Literal["open_clip", "transformers", "timm"]

LIBRARIES: tuple[Library, ...] = ("open_clip", "transformers", "timm")
"""Keys of an entry, each of which is an address and says which library builds the model."""

FOLDER_STARTS = ("/", "./", "../", "~")

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""The weights of one model in two forms, of which the first is enough."""

FILES: dict[Library, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "open_clip": (
        ("open_clip_config.json",),
        ("open_clip_model.safetensors", "open_clip_pytorch_model.bin", *TOKENIZER_FILES),
    ),
    "transformers": (
        ("config.json",),
        ("preprocessor_config.json", "processor_config.json", *WEIGHTS, *TOKENIZER_FILES),
    ),
    "timm": (("config.json",), WEIGHTS),
}
"""Names of the files that a repository of each library must have, and may have."""


def filled(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return an entry's values with what its address says, such as ``family`` and ``download``, unless stated.

    Raises:
        ValueError: there are several addresses, or the address is none.
    """
    stated = [library for library in LIBRARIES if values.get(library) is not None]
    if not stated:
        return dict(values)
    library = stated[0]
    if len(stated) > 1:
        raise ValueError(f"{' and '.join(stated)} are addresses of one model each; give one of them")
    address = values[library]
    if not isinstance(address, str):
        return dict(values)  # of another type, which is reported by its key
    if is_folder(address):
        # A run hands entries on with the folder that was made of the address; "./" and "../" have no name to compare.
        name = Path(os.path.expanduser(address)).name  # noqa: PTH111 - Path's refuses an unknown user's home here
        if name not in {"", ".."} and Path(str(values.get("folder", name))).name != name:
            raise ValueError(f"{library} is a folder already; leave folder out")
        found: dict[str, Any] = {"family": library, "folder": address, "download": []}
    elif library == "open_clip" and (tagged := _tagged(address)):
        found = tagged
    else:
        repo, revision = _repository(library, address)
        files, optional = FILES[library]
        found = {"family": library, "download": [_download(repo, revision, files, optional)]}
    if values.get("family", found["family"]) != found["family"]:
        raise ValueError(f"{library} is an address, so that family {values['family']} says nothing; leave family out")
    return found | dict(values)


def is_folder(address: object) -> bool:
    """Return whether an address is a folder on this machine."""
    return isinstance(address, str) and address.startswith(FOLDER_STARTS)


def is_published(values: Mapping[str, Any]) -> bool:
    """Return whether an entry has an address that is no folder."""
    return any(values.get(library) and not is_folder(values[library]) for library in LIBRARIES)


def published(architecture: str, tag: str) -> dict[str, Any]:
    """Return what open_clip says about a set of weights, as keys of an entry, and ``hf_hub``, where it is.

    Raises:
        ConfigError: open_clip has no such weights.
    """
    table = _table_of_tags()
    tags = table.list_pretrained_tags_by_model(architecture)
    if tag not in tags:
        raise ConfigError(f"open_clip has no weights {tag!r} of {architecture}{it_has(tag, tags)}")
    stated = table.get_pretrained_cfg(architecture, tag)
    names = ("mean", "std", "interpolation", "resize_mode")
    found = {
        "family": "open_clip_file",
        "architecture": architecture,
        "preprocess": {name: stated[name] for name in names if name in stated},
    }
    # The weights decide, not the architecture: open_clip alone would warn and compute with the wrong function.
    return found | ({"quick_gelu": True} if stated.get("quick_gelu") else {})


def architecture_file(architecture: str) -> Path | None:
    """Return the path of one of open_clip's named architectures, without an import of open_clip."""
    paths = (Path(root, "model_configs", f"{architecture}.json") for root in _open_clip_folders())
    return next((path for path in paths if path.is_file()), None)


def _open_clip_folders() -> list[str]:
    found = importlib.util.find_spec("open_clip")
    return list((found and found.submodule_search_locations) or ())


@functools.cache
def _table_of_tags() -> ModuleType:
    """Return open_clip's module that lists its weights, without an import of open_clip and torch, which takes seconds.

    A pipeline is read by commands that need neither.
    """
    if "open_clip" in sys.modules:
        return importlib.import_module("open_clip.pretrained")
    package, unwanted = ModuleType("_open_clip_without_torch"), "safetensors.torch"
    package.__path__ = _open_clip_folders()
    # The module can do without safetensors, which it needs to read weights.
    blocked = unwanted not in sys.modules
    sys.modules[package.__name__] = package
    if blocked:
        sys.modules[unwanted] = None  # type: ignore[assignment]
    try:
        return importlib.import_module(f"{package.__name__}.pretrained")
    finally:
        if blocked:
            del sys.modules[unwanted]


def _tagged(address: str) -> dict[str, Any] | None:
    """Return the values of MODEL/TAG, None if the address is a repository's."""
    name, _, revision = address.partition("@")
    architecture, _, tag = name.partition("/")
    if architecture_file(architecture) is None:
        return None
    try:
        found = published(architecture, tag)
    except ConfigError as error:
        raise ValueError(f"open_clip: {error}") from None
    owner, repo, file = _table_of_tags().get_pretrained_cfg(architecture, tag)["hf_hub"].split("/", 2)
    files, optional = ((file,), TOKENIZER_FILES) if file else ((), FILES["open_clip"][1])
    found["download"] = [_download(f"{owner}/{repo}", revision, files, optional)]
    return found | ({"checkpoint": file} if file else {})


def _download(repo: str, revision: str | None, files: Sequence[str], optional: Sequence[str]) -> dict[str, Any]:
    item = {"repo": repo, "revision": revision, "files": list(files), "optional": list(optional)}
    return {key: value for key, value in item.items() if value}


def _repository(library: Library, address: str) -> tuple[str, str | None]:
    name, _, revision = address.partition("@")
    if library == "timm":
        name = name.removeprefix("hf-hub:") if name.startswith("hf-hub:") else _timm_repository(name)
    elif library == "open_clip":
        name = name.removeprefix("hf-hub:")
    if name.count("/") != 1 or not all(name.split("/")):
        raise ValueError(
            f"{library}: {address!r} names no repository (OWNER/NAME) and no folder (one that begins with /, ./ or ~)"
        )
    return name, revision or None


def _timm_repository(name: str) -> str:
    if "/" in name:
        raise ValueError(f"timm: {name!r} is no model of timm's; a repository is written hf-hub:{name}")
    if "." not in name:
        raise ValueError(f"timm: {name!r} has several sets of weights; name one as MODEL.TAG (timm.list_pretrained)")
    return f"timm/{name}"
