"""Metrics as JSON lines and for TensorBoard, through an interruption."""

from __future__ import annotations

import json

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from train.runtime.metrics_log import EVENTS, METRICS, logging_to


def steps(folder):
    return [json.loads(line)["step"] for line in (folder / METRICS).read_text().splitlines()]


def test_lines_of_steps_that_are_done_again_are_dropped_and_half_a_line_too(tmp_path):
    with logging_to(tmp_path, start=0, tensorboard=False) as log:
        for step in range(5):
            log.write(step, {"loss": 1.0})
    with (tmp_path / METRICS).open("a") as file:
        file.write('{"step": 5, "lo')
    with logging_to(tmp_path, start=3, tensorboard=False) as log:
        log.write(3, {"loss": 2.0})
    assert steps(tmp_path) == [0, 1, 2, 3]
    assert json.loads((tmp_path / METRICS).read_text().splitlines()[-1]) == {"step": 3, "loss": 2.0}


def test_a_line_is_there_as_soon_as_it_is_written(tmp_path):
    with logging_to(tmp_path, start=0, tensorboard=False) as log:
        log.write(0, {"loss": 1.0})
        assert steps(tmp_path) == [0]


def test_tensorboard_reads_the_same_numbers(tmp_path):
    about = {"run": {"recipe": "paper", "optimization": {"lr": 0.1}}}
    with logging_to(tmp_path, start=0, tensorboard=True, about=about) as log:
        for step in range(3):
            log.write(step, {"loss": 0.5 * step, "lr": 0.1})
        log.write(2, {"image_to_text_recall@1": 0.25})
    events = EventAccumulator(str(tmp_path / EVENTS))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(0, 0.0), (1, 0.5), (2, 1.0)]
    assert set(events.Tags()["scalars"]) == {"loss", "lr", "image_to_text_recall@1"}
    assert [(event.step, event.value) for event in events.Scalars("image_to_text_recall@1")] == [(2, 0.25)]
    (shown,) = events.Tensors("configuration/text_summary")
    text = shown.tensor_proto.string_val[0].decode()
    assert all(line.startswith("    ") for line in text.splitlines())
    assert json.loads(text) == about
