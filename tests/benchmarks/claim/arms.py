"""The students of the claim: arms of the primary comparison, ablations, ablations of the store (docs/claim-plan.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

DRAWS = (1, 2)

SEEDS_OF_DRAW = 5

ABLATION_SEEDS = (1, 2, 3)
"""They belong to draw 1."""

STEPS = 340


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """Students that differ in their seed alone.

    Attributes:
        base: the arm that it is compared with, seed by seed; None for arms of the primary comparison.
        kind: what of the pipeline differs from that of the draw; names a pipeline and a projection of its own.
        section: keys of the student's section that differ.
    """

    name: str
    recipe: str = "paper"
    base: str | None = None
    kind: str | None = None
    steps: int = STEPS
    section: Mapping[str, Any] = field(default_factory=dict)

    def student(self, seed: int) -> str:
        """Return the name of a student."""
        return f"{self.name}_{seed}"

    @property
    def seeds(self) -> tuple[int, ...]:
        """Return the seeds of all draws, or those of the ablations."""
        return ABLATION_SEEDS if self.base else tuple(seed for draw in DRAWS for seed in seeds_of(draw))

    @property
    def students(self) -> list[str]:
        """Return the names of all students."""
        return [self.student(seed) for seed in self.seeds]


ANGULAR = {"improved": {"distance": "angular", "phi_s": False}}

PRIMARY = (Arm(name="task_only", recipe="task_only"), Arm(name="paper"), Arm(name="improved", recipe="improved"))

ABLATIONS = (
    Arm(name="task_only_long", recipe="task_only", base="paper", steps=3 * STEPS),
    Arm(name="ungated", base="paper", kind="ungated"),
    Arm(name="quantile", base="paper", kind="quantile"),
    Arm(name="image_teacher", base="paper", kind="image_teacher"),
    Arm(name="angular", recipe="improved", base="improved", section=ANGULAR),
)

OF_STORE = (
    Arm(name="float32", base="paper", kind="float32"),
    Arm(name="int8", base="paper", kind="int8"),
    Arm(name="pixels", base="paper", section={"images": "pixels"}),
    Arm(name="window_16", base="paper", section={"window_blocks": 16}),
    Arm(name="window_256", base="paper", section={"window_blocks": 256}),
    Arm(name="one_place", base="paper", kind="one_place", section={"window_blocks": 1}),
)

ARMS = {arm.name: arm for arm in (*PRIMARY, *ABLATIONS, *OF_STORE)}


def seeds_of(draw: int) -> tuple[int, ...]:
    """Return the seeds of the students of a draw; no other draw has them."""
    return tuple(range(SEEDS_OF_DRAW * (draw - 1) + 1, SEEDS_OF_DRAW * draw + 1))


def draw_of(seed: int) -> int:
    """Return the draw whose students have a seed."""
    return (seed - 1) // SEEDS_OF_DRAW + 1
