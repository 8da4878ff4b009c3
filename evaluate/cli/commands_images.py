"""``python -m evaluate predict``, ``overlap``: a user's own images, and images that a store and a dataset share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.table import Table

from evaluate.datasets.registry import find_dataset
from evaluate.models.pipeline_models import DeviceOption, MaybePipelineOption, addresses_of
from store.cli.options import PIPELINES_FILE, ConfigOption, JsonOption, StoreArgument, print_json, wide_console
from store.console import styled
from store.errors import ConfigError, PairDecodeError
from store.images.decode import open_image
from store.read.reader import FeatureStore

from .commands_datasets import (
    AllowOption,
    DataRootOption,
    DatasetsOption,
    PlaceOption,
    allowed,
    known_datasets,
    read_maybe,
    root_of,
)

app = typer.Typer()


@app.command(epilog="Example: python -m evaluate predict IMAGE --model local-dir:STUDENT --class cyst --class polyp")
def predict(
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    *,
    model: Annotated[str, typer.Option(help="An address or name, as for run.")],
    class_: Annotated[list[str] | None, typer.Option("--class", help="A class to tell apart; may be repeated.")] = None,
    template: Annotated[list[str] | None, typer.Option(help="Prompts with {label}; may be repeated.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Take classes and prompts of this dataset.")] = None,
    datasets: DatasetsOption = None,
    pipeline: MaybePipelineOption = None,
    config: ConfigOption = PIPELINES_FILE,
    device: DeviceOption = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Say which class each image most likely shows, by prompts. Not for medical use."""
    from evaluate.suite.predict import Prompts, predict_images

    loaded = read_maybe(pipeline, config)
    if (dataset is None) == (class_ is None):
        raise ConfigError(
            "say what to tell apart", hint="--class NAME at least twice, or --dataset NAME of the registry"
        )
    if dataset is not None:
        if template:
            raise ConfigError("--template goes with --class: the dataset has its own prompts")
        prompts = Prompts.of_dataset(find_dataset(dataset, known_datasets(loaded, datasets)))
    else:
        prompts = Prompts.of(class_ or [], template or [])
    pictures, window = [], loaded.image.bounds if loaded else None
    for path in images:
        try:
            pictures.append(open_image(path.read_bytes(), window=window).image)
        except (OSError, PairDecodeError) as error:
            raise ConfigError(f"{path}: {error}") from error
    address = addresses_of([model], loaded)[0]
    scores_NC = predict_images(pictures, address, prompts, teachers=loaded.teachers if loaded else {}, device=device)
    found = [
        {"image": str(path), "predicted": prompts.classes[int(np.argmax(row))]}
        | {"scores": {label: round(float(score), 6) for label, score in zip(prompts.classes, row, strict=True)}}
        for path, row in zip(images, scores_NC, strict=True)
    ]
    if as_json:
        print_json(found)
        return
    table = Table("image", *map(styled, prompts.classes), box=None)
    for path, row in zip(images, scores_NC, strict=True):
        best = int(np.argmax(row))
        cells = (f"[bold]{score:.3f}[/]" if at == best else f"{score:.3f}" for at, score in enumerate(row))
        table.add_row(styled(path), *cells)
    wide_console().print(table)


@app.command(epilog="Example: python -m evaluate overlap STORE breastmnist --data-root data")
def overlap(
    store: StoreArgument,
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="A dataset of the registry or of --datasets.")],
    *,
    datasets: DatasetsOption = None,
    data_root_: DataRootOption = None,
    pipeline: PlaceOption = None,
    config: ConfigOption = PIPELINES_FILE,
    allow: AllowOption = None,
    corpus_root: Annotated[Path | None, typer.Option(help="Place of the store's corpus, if it moved.")] = None,
    near: Annotated[bool, typer.Option(help="Also look for images that look alike.")] = True,
    threads: Annotated[int, typer.Option(min=1, help="Threads that decode images.")] = 2,
    results: Annotated[
        Path | None, typer.Option("--results", help="Note the counts in the results of this dataset there.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Count the test images that also occur in a store's corpus: the same bytes, or a similar look."""
    from evaluate.datasets.loading import load_dataset
    from evaluate.suite.overlap import find_overlap, note_overlap

    pipeline_ = read_maybe(pipeline, config)
    entry = find_dataset(dataset, known_datasets(pipeline_, datasets))
    loaded = load_dataset(entry, root_of(pipeline_, data_root_), allow=allowed(allow or []))
    opened = FeatureStore(store, corpus_root=corpus_root)
    found = find_overlap(opened, loaded, near=near, threads=threads)
    noted = note_overlap(results, entry.name, found, store=opened.location.uri) if results else 0
    said = {
        "dataset": entry.name,
        "store": opened.location.uri,
        "test_items": found.items,
        "exact": len(found.exact),
        "near": len(found.near) if near else None,
        "unreadable_in_store": found.unreadable,
        "examples": [{"item": item, "key": key} for item, key in found.pairs],
        "results_noted": noted,
    }
    if as_json:
        print_json(said)
        return
    table = Table(show_header=False, box=None)
    for name, value in said.items():
        if name != "examples":
            table.add_row(name.replace("_", " "), "not looked for" if value is None else styled(value))
    for example in found.pairs[:10]:
        table.add_row("example", styled(f"{example[0]} is {example[1]}"))
    wide_console().print(table)
