"""Writes a finished run as a folder with a model card, which states what it was made from and whose terms apply."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from open_clip.constants import HF_CONFIG_NAME, HF_SAFE_WEIGHTS_NAME
from safetensors import SafetensorError

from store.errors import ConfigError, SpecMismatchError, TeacherError
from store.read.reader import FeatureStore
from train.models.model_folder import write_weights
from train.models.pretrained import tag_of
from train.runtime.origin import origin_of, write_origin
from train.runtime.run_folder import RECORD

from .model_card import UNKNOWN, Card, TeacherTerms, render
from .open_clip_folder import CARD_NAME, build, new_folder, require_fit, write_config, write_tokenizer


def export(
    run: Path, out: Path, *, store: str | None = None, text: Path | None = None, results: Path | None = None
) -> None:
    """Write a run's model as a folder that plain open_clip loads.

    Args:
        store: the store that a student was distilled from; its specs state source and licence of the teachers.
        text: folder with configuration and tokenizer of a transformers text tower, where there is no network.
        results: Markdown, or JSON, for the model card.

    Raises:
        ConfigError: ``run`` is no finished run, ``out`` exists, or the store is needed and not given.
        SpecMismatchError: the store holds other features than the student was trained on.
        TeacherError: the weights do not fit the configuration.
    """
    identity = read_run(run)
    with new_folder(out) as folder:
        config = write_config(folder, json.loads((run / HF_CONFIG_NAME).read_text()), text=text, out=out)
        write_tokenizer(folder, config, run, text)
        weights = run / HF_SAFE_WEIGHTS_NAME
        try:
            state = safetensors.torch.load_file(weights)
        except (SafetensorError, OSError) as error:
            raise TeacherError(f"{weights}: not a readable safetensors file: {error}", hint="train it again") from error
        require_fit(build(folder, config), state, where=weights)
        write_weights(folder, state)
        card = card_of(run, identity, config, store=store, results=results, name=out.name)
        (folder / CARD_NAME).write_text(render(card))
        write_origin(folder, origin_of(identity))


def read_run(run: Path) -> dict[str, Any]:
    """Return the record of a finished run.

    Raises:
        ConfigError: the folder has none.
    """
    needed = (RECORD, HF_CONFIG_NAME, HF_SAFE_WEIGHTS_NAME)
    missing = [name for name in needed if not (run / name).is_file()]
    if missing:
        raise ConfigError(
            f"{run}: not the folder of a finished run: {' and '.join(missing)} missing",
            hint="train.students.NAME.out or train.pretrain.NAME.out of the pipeline says where a run's folder is",
        )
    try:
        identity: dict[str, Any] = json.loads((run / RECORD).read_text())
        identity["run"]["optimization"]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{run / RECORD}: not the record of a run: {type(error).__name__}: {error}") from error
    return identity


def card_of(
    run: Path,
    identity: Mapping[str, Any],
    config: Mapping[str, Any],
    *,
    store: str | None,
    results: Path | None,
    name: str,
) -> Card:
    """Return the model card of a run; see `export`."""
    opened = FeatureStore(store) if store else None
    return Card(
        name=name,
        architecture=config["model_cfg"],
        recipe={key: value for key, value in identity["run"].items() if key not in ("out", "model")},
        corpus=_corpus(identity, opened),
        pair_licences=_pair_licences(opened) if opened else {},
        teachers=teachers_of(run, identity, opened),
        begun_from=begun_from(identity["run"]["model"], config),
        results=_results(run, results),
    )


def teachers_of(run: Path, identity: Mapping[str, Any], store: FeatureStore | None) -> list[TeacherTerms]:
    """Return the terms of the teachers that a student was distilled from.

    Raises:
        ConfigError: there are such teachers, and the store is not given.
        SpecMismatchError: the store holds other features of one of them.
    """
    names, specs = origin_of(identity).teachers, identity.get("store", {}).get("specs", {})
    if not names:
        return []
    if store is None:
        raise ConfigError(
            f"{run}: distilled from {', '.join(names)}, whose terms travel on with it; the store says which they are",
            hint="--store PATH names the store that it was trained from",
        )
    terms = []
    for name in names:
        found = store.spec(name) if name in store.teachers else None
        if found is None or found.hash != specs[name]:
            raise SpecMismatchError(
                f"{store.location}: {'other features' if found else 'no features'} of {name} than {run} was trained on",
                hint="--store names the store that it was trained from",
            )
        source, licence = (str(found.notes.get(key) or UNKNOWN) for key in ("source", "licence"))
        terms.append(TeacherTerms(name=name, source=source, licence=licence, spec_hash=found.hash))
    return terms


def begun_from(model: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """Return the models whose weights a run started from, directly or through earlier runs."""
    begun = []
    if model.get("vision_from"):
        begun.append(f"image tower: open_clip {model['vision_from']}")
    tower = config["model_cfg"]["text_cfg"].get("hf_model_name")
    if tower and model.get("config") and config["model_cfg"]["text_cfg"].get("hf_model_pretrained", True):
        named = model["config"].get("text_cfg", {}).get("hf_model_name", tower)
        begun.append(f"text tower: {named}")
    init = model.get("init")
    tag = tag_of(init) if init else None
    if tag:
        begun.append(f"open_clip {tag.name}/{tag.tag}")
    elif init:
        begun += _begun_from_folder(Path(init))
    return begun


def _begun_from_folder(folder: Path) -> list[str]:
    if not (folder / RECORD).is_file():
        return [f"{folder.name} (not known what that began from)"]
    identity = read_run(folder)
    named = folder.name
    teachers = origin_of(identity).teachers
    if teachers:
        named += f", distilled from {', '.join(teachers)}: their terms travel on too, its own card says which they are"
    return [named, *begun_from(identity["run"]["model"], json.loads((folder / HF_CONFIG_NAME).read_text()))]


def _corpus(identity: Mapping[str, Any], store: FeatureStore | None) -> list[str]:
    if store is not None:
        files = store.info.corpus.get("files", {})
        return [f"{store.info.rows:,} pairs of {len(files):,} files: {_shown(list(files))}"]
    files = identity.get("corpus") or identity.get("store", {}).get("corpus", {}).get("files", {})
    return [f"pairs of {len(files):,} files: {_shown(list(files))}"] if files else []


def _shown(names: list[str]) -> str:
    # The card says neither where the files lie nor what a URL's query holds, which may be a token.
    shown = [name.partition("?")[0].rstrip("/").rpartition("/")[2] for name in names[:3]]
    return ", ".join(shown) + (", ..." if len(names) > 3 else "")


def _pair_licences(store: FeatureStore) -> dict[str, int]:
    column = store.pairs.read(0, store.info.rows, ["license"])["license"]
    counts: Counter[str] = Counter()
    for entry in column.value_counts().to_pylist():
        counts[str(entry["values"] or UNKNOWN)] += entry["counts"]
    return dict(counts)


def _results(run: Path, results: Path | None) -> str:
    if results is None:
        return ""
    try:
        text = results.read_text()
        if results.suffix == ".json":
            return f"```json\n{json.dumps(json.loads(text), indent=1)}\n```"
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"--results: {results}: cannot be read: {error}", hint=f"Markdown or JSON about {run}"
        ) from error
    return text
