"""The recipes of pipelines.yaml."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from store.config.pipeline_file import Section


class PaperRecipe(Section):
    """The released MMKD-CLIP loss: task + feature_weight x feature + interactive_weight x interactive.

    The defaults are the released configuration; each switch corrects one of its known defects.

    Attributes:
        target_norm: ``none`` takes projected features as they are, with norms that differ between teachers; ``l2``
            normalises them.
        interactive_scale: ``log`` multiplies by ln(1/0.07) as the released code does; ``exp`` by 1/0.07, which was
            evidently meant; ``learned`` starts at 1/0.07 and is trained.
        teacher_sampling: ``uniform_one`` draws one of a row's available teachers in each epoch; ``all`` uses all.
        feature_dtype: ``bf16`` rounds projected features before they are compared; ``fp32`` does not.
        local_loss: on several ranks, each computes the losses of its own rows; otherwise each computes all.
        gather_with_grad: embeddings of other ranks carry a gradient. ``false`` would lose the gradient or make it too
            small, so it is refused.
        shuffle: ``false`` uses one order for all epochs, as the released stage 2 does in a single process.
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

    Attributes:
        feature_weight: of the term in which a head per teacher and side predicts the teacher's features.
        relational_weight: of the term in which images should be as similar to texts as for each teacher.
        interactive_weight: of the term that contrasts predictions with a teacher's features of the other side.
        heads: ``linear``, or ``mlp``: norm, linear, GELU, linear.
        phi_s: predict features in coordinates in which each dimension has standard deviation 1.
        distance: between prediction and feature: ``cos_smooth_l1`` (0.9 and 0.1), ``mse``, ``cos``, or ``angular``
            (squared angle).
        balance: weights of the teachers: ``uniform``; ``dispersion``, larger where features lie close together;
            ``uncertainty``, learned; ``unic_drop``, which keeps the worst teacher of a row, and each other one with
            probability 1/2.
        statistics_rows: features per teacher that PHI-S and dispersion are fitted to, once per run.
        logit_scales: of teachers whose spec states none.
    """

    feature_weight: float = Field(default=1.0, ge=0)
    relational_weight: float = Field(default=1.0, ge=0)
    interactive_weight: float = Field(default=0.0, ge=0)
    heads: Literal["linear", "mlp"] = "linear"
    phi_s: bool = True
    distance: Literal["cos_smooth_l1", "mse", "cos", "angular"] = "cos_smooth_l1"
    balance: Literal["uniform", "dispersion", "uncertainty", "unic_drop"] = "dispersion"
    statistics_rows: int = Field(default=50_000, gt=1)
    logit_scales: dict[str, float] = {}

    @property
    def uses_heads(self) -> bool:
        """True if a term uses heads."""
        return self.feature_weight > 0 or self.interactive_weight > 0

    @property
    def uses_statistics(self) -> bool:
        """True if statistics must be fitted to the teachers' features."""
        return (self.uses_heads and self.phi_s) or (self.feature_weight > 0 and self.balance == "dispersion")
