"""What a run minimizes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from train.config import PaperRecipe
from train.objective import PaperObjective
from train.stream import Batch


def test_the_papers_objective_refuses_batches_without_targets():
    pixels = torch.zeros(4, 2, 2, 3, dtype=torch.uint8)
    batch = Batch(step=0, rows_B=np.arange(4), pixels_BHWC=pixels, captions=[""] * 4, targets=None)
    with pytest.raises(ValueError, match="needs batches with targets"):
        PaperObjective(PaperRecipe())(torch.ones(4, 2), torch.ones(4, 2), torch.tensor(1.0), batch)
