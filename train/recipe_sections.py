"""The recipes of pipelines.yaml; docs/pipelines.md describes every key."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from store.config.pipeline_file import Section


class PaperRecipe(Section):
    """The released MMKD-CLIP loss: task + feature_weight x feature + interactive_weight x interactive.

    The defaults are the released configuration; each switch corrects one of its known defects.
    """

    feature_weight: float = Field(default=50.0, ge=0)
    interactive_weight: float = Field(default=1.0, ge=0)
    target_norm: Literal["none", "l2"] = "none"
    interactive_scale: Literal["log", "exp", "learned"] = "log"
    teacher_sampling: Literal["uniform_one", "all"] = "uniform_one"
    feature_dtype: Literal["bf16", "fp32"] = "bf16"
    local_loss: bool = True
    gather_with_grad: bool = True
    shuffle: bool = True

    @model_validator(mode="after")
    def _a_teacher_teaches(self) -> PaperRecipe:
        if not (self.feature_weight or self.interactive_weight):
            raise ValueError(
                "feature_weight and interactive_weight are 0, so that no teacher teaches; give one of them a weight, "
                "or recipe: task_only"
            )
        return self

    @model_validator(mode="after")
    def _gradients_reach_every_rank(self) -> PaperRecipe:
        if not self.gather_with_grad:
            harm = (
                "the teachers' terms get no gradient at all"
                if self.local_loss
                else "gradients are those of one process divided by the number of ranks"
            )
            raise ValueError(
                f"gather_with_grad: false with local_loss: {str(self.local_loss).lower()} silently trains wrongly on "
                f"several ranks: {harm}; set gather_with_grad: true, local_loss may be either"
            )
        return self


class ImprovedRecipe(Section):
    """Distillation from all available teachers of a row, each in a space of its own; a weight of 0 leaves a term out.

    Not shown to be better than the paper's recipe.
    """

    feature_weight: float = Field(default=1.0, ge=0)
    relational_weight: float = Field(default=1.0, ge=0)
    interactive_weight: float = Field(default=0.0, ge=0)
    heads: Literal["linear", "mlp"] = "linear"
    phi_s: bool = True
    distance: Literal["cos_smooth_l1", "mse", "cos", "angular"] = "cos_smooth_l1"
    balance: Literal["uniform", "dispersion", "uncertainty", "unic_drop"] = "dispersion"
    statistics_rows: int = Field(default=50_000, gt=1)
    logit_scales: dict[str, Annotated[float, Field(gt=0)]] = {}

    @model_validator(mode="after")
    def _a_teacher_teaches(self) -> ImprovedRecipe:
        if not (self.feature_weight or self.relational_weight or self.interactive_weight):
            raise ValueError("all weights are 0, so that no teacher teaches; give one a weight, or recipe: task_only")
        return self

    @property
    def uses_heads(self) -> bool:
        """True if a term uses heads."""
        return self.feature_weight > 0 or self.interactive_weight > 0

    @property
    def uses_statistics(self) -> bool:
        """True if statistics must be fitted to the teachers' features."""
        return (self.uses_heads and self.phi_s) or (self.feature_weight > 0 and self.balance == "dispersion")
