"""The objective without teachers."""

from __future__ import annotations

import numpy as np
import torch
from open_clip.loss import ClipLoss
from torch.nn import functional

from train.losses.objective import Given, TaskObjective


def test_the_task_alone_is_open_clips_loss_and_has_no_parameters():
    image, text = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(1))
    terms = TaskObjective()(image, text, torch.tensor(9.0), Given(np.arange(5), 0, None))
    theirs = ClipLoss()(functional.normalize(image), functional.normalize(text), 9.0)
    assert list(terms) == ["loss"]
    torch.testing.assert_close(terms["loss"], theirs)
    assert not list(TaskObjective().parameters())
