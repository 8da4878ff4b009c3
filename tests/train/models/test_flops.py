"""Floating-point operations of the encoders, against those counted by hand."""

from __future__ import annotations

import torch
from torch import nn

from tests.train.models.test_text_tower import student_of
from train.models.flops import encoder_flops
from train.models.towers import has_own_statistics


def test_the_operations_of_one_caption_and_one_image_are_those_of_their_matrix_products(tmp_path):
    student = student_of(tmp_path)
    weights = [parameter.clone() for parameter in student.model.parameters()]
    image, text = encoder_flops(student.model, size_px=32, context=24)

    def blocks(layers, tokens, width):
        # Queries, keys, values, output, two layers of four times the width; queries with keys, and weights with values.
        return layers * (2 * tokens * width * width * 12 + 2 * 2 * tokens * tokens * width)

    assert text == blocks(2, 24, 32) + 2 * 32 * 32
    assert image == blocks(1, 17, 32) + 2 * 16 * 3 * 8 * 8 * 32 + 2 * 32 * 32
    assert all(torch.equal(before, now) for before, now in zip(weights, student.model.parameters(), strict=True))
    assert student.model.training


def test_only_statistics_that_processes_do_not_share_are_their_own():
    assert has_own_statistics(nn.BatchNorm2d(3))
    assert not has_own_statistics(nn.SyncBatchNorm(3))
    assert not has_own_statistics(nn.LayerNorm(3))
