"""A worker asks a node for what it uses, and a node holds as many as that allows."""

from __future__ import annotations

import pytest

from extract.cluster.fleet import holds, room, start_actor
from extract.config import ExtractPipeline, ExtractSection, resources_text
from extract.run.run_spec import RunSpec
from store.config.pipeline_file import read_pipeline
from store.errors import ConfigError
from store.io.location import locate


def test_a_worker_asks_for_the_threads_that_work_at_once_and_for_its_share_of_a_card():
    section = ExtractSection(threads_per_worker=4, decode_threads=8, gpus_per_worker=0.5)
    assert resources_text(section.asked) == "CPU 12"
    assert resources_text(section.model_copy(update={"device": "cuda"}).asked) == "CPU 12, GPU 0.5"
    assert resources_text({}) == "neither CPU nor GPU"


@pytest.mark.parametrize(
    ("cards", "said"),
    [(1.5, "expected a part of one card, as 0.5, or a whole number of cards, got 1.5"), (0, "must be at least 0.01")],
)
def test_more_than_one_card_is_asked_for_whole(tmp_path, corpus, teachers, write_pipeline, cards, said):
    path = write_pipeline(tmp_path, files=[corpus / "*.tar"], teachers=teachers, gpus_per_worker=cards)
    with pytest.raises(ConfigError, match=rf"pipelines.yaml:\d+: .*extract.gpus_per_worker: .*{said}"):
        read_pipeline(path, "tiny", ExtractPipeline)
    path = write_pipeline(tmp_path, files=[corpus / "*.tar"], teachers=teachers, gpus_per_worker=2)
    assert read_pipeline(path, "tiny", ExtractPipeline).extract.gpus_per_worker == 2


@pytest.mark.parametrize(
    ("amount", "asked", "workers"),
    [
        (1, 0.5, 2),
        (2, 0.6, 2),
        (1, 0.1, 10),
        (4, 0.05, 80),
        (8, 1, 8),
        (5, 2, 2),
        (7.0, 3.0, 2),
        (0, 0.5, 0),
        (2, 3, 0),
    ],
)
def test_a_part_of_a_card_is_a_part_of_one_card(amount, asked, workers):
    assert holds(amount, asked) == workers


@pytest.mark.ray
def test_two_workers_get_places_on_one_card_and_a_third_waits(tmp_path):
    import ray

    settings = ExtractSection(device="cuda", gpus_per_worker=0.5)
    nothing = {"entries": {}, "specs": {}, "prefixes": {}, "max_pixels": 1, "corpus_root": "", "run_id": "test"}
    spec = RunSpec(store=locate(tmp_path), settings=settings, **nothing)
    ray.init(address="local", num_cpus=9, num_gpus=1, include_dashboard=False, object_store_memory=80 * 2**20)
    try:
        assert room(spec) == 2
        actors = [start_actor(spec) for _ in range(3)]
        calls = [actor.place.options(concurrency_group="control").remote() for actor in actors]
        placed, [waiting] = ray.wait(calls, num_returns=2)
        assert ray.wait([waiting], timeout=1)[0] == []
        assert ray.available_resources().get("GPU", 0) == 0
        ray.kill(actors[calls.index(placed[0])])
        assert ray.get(waiting)
    finally:
        ray.shutdown()
