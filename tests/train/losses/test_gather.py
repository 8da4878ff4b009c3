"""Two processes against one: the same loss and the same gradients."""

from __future__ import annotations

import pytest
import torch

from tests.train import two_ranks
from train.losses.gather import ALONE, Across

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def found(of_two_processes):
    """The results of two processes, by rank."""
    return of_two_processes(two_ranks.__name__)


@pytest.mark.end_to_end
@pytest.mark.parametrize("name", two_ranks.NAMES)
def test_two_processes_have_the_loss_and_gradients_of_one(found, name):
    alone = two_ranks.compute(name, 0, 1)
    ours = [of_rank[name] for of_rank in found]
    for term, value in alone["terms"].items():
        mean = torch.stack([of_rank["terms"][term] for of_rank in ours]).mean()
        assert mean.item() == pytest.approx(value.item(), abs=1e-10), term
    assert set(alone["gradients"]) == set(ours[0]["gradients"])
    for parameter, gradient in alone["gradients"].items():
        for of_rank in ours:
            torch.testing.assert_close(of_rank["gradients"][parameter], gradient, rtol=1e-8, atol=1e-10)
    assert alone["gradients"]["image"].norm() > 1e-3


@pytest.mark.end_to_end
def test_with_global_losses_every_process_sees_the_whole_task(found):
    terms = [of_rank["paper_global"]["terms"]["task_loss"].item() for of_rank in found]
    assert terms[0] == pytest.approx(terms[1], abs=1e-12)
    local = [of_rank["paper"]["terms"]["task_loss"].item() for of_rank in found]
    assert abs(local[0] - local[1]) > 1e-3


@pytest.mark.end_to_end
def test_the_mean_over_processes_is_of_all_totals_by_all_weights_and_leaves_the_weights_alone(found):
    ours = [of_rank["weighted"] for of_rank in found]
    assert [of_rank["mean"].item() for of_rank in ours] == pytest.approx([2 * 1 / 3, 2 * 2 / 3])
    assert [of_rank["weight"].item() for of_rank in ours] == [1, 2]


def test_alone_nothing_is_gathered_and_a_mean_is_a_mean():
    rows = torch.arange(6.0).reshape(3, 2)
    (gathered,) = ALONE.gather([rows])
    assert gathered.queries is rows
    assert gathered.every is rows
    assert gathered.first == 0
    assert ALONE.mean(torch.tensor(6.0), 4).item() == 1.5
    assert ALONE.mean(torch.tensor(0.0), 0).item() == 0
    current = Across.current(local_loss=False)
    assert (current.rank, current.size, current.local_loss) == (0, 1, False)
