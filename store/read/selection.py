"""Selection: which teachers may teach which rows in training. It never changes the store."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError

from store.config.pipeline_file import Section
from store.config.problems import suggest, worded
from store.errors import ConfigError
from store.format.records import Status

from .categories import Categories


class _Worded(type(Section)):  # type: ignore[misc]  # pydantic does not export its metaclass
    """Words what is wrong with a rule that Python code makes; pydantic's own checks of a file go another way."""

    def __call__(cls, *args: Any, **values: Any) -> Any:
        try:
            return super().__call__(*args, **values)
        except ValidationError as invalid:
            raise ConfigError(worded(invalid, cls)) from None
        except TypeError:
            raise ConfigError(f"expected conditions by name, as {cls.__name__}(min_similarity=0.3)") from None


class TeacherSelection(Section, metaclass=_Worded):
    """Conditions on the rows that one teacher may teach; all that are given must hold."""

    modalities: list[str] | None = None
    min_similarity: float | None = Field(default=None, ge=-1, le=1)
    top_quantile: float | None = Field(default=None, gt=0, le=1)


Selection = Literal["all"] | dict[str, TeacherSelection]
"""``all``, or the teachers that may teach with their conditions; a teacher that is not listed teaches nothing."""


def available(
    selection: Selection,
    *,
    status: Mapping[str, npt.NDArray[np.uint8]],
    similarity: Callable[[str], npt.NDArray[np.float32]],
    modality: Callable[[], Categories],
    one_sided: Collection[str] = (),
) -> dict[str, npt.NDArray[np.bool_]]:
    """Return (N,) by teacher, in the order of ``status``: whether the selection lets it teach each row.

    Args:
        status: by teacher (N,), of Status.
        similarity: returns a teacher's, (N,); called only where the policy needs it.
        modality: returns that of N rows; called only where the policy has rules.
        one_sided: teachers that encode images alone.

    Raises:
        ConfigError: the policy names a teacher or a modality that the store does not have, or asks for the
            similarity of a teacher that encodes images alone.
    """
    ok = {teacher: status_N == Status.OK for teacher, status_N in status.items()}
    if selection == "all":
        return ok
    categories = modality()
    _check_names(selection, [*ok], known=categories.names, one_sided=one_sided)
    return {
        teacher: ok_N & _allowed(selection[teacher], ok_N, teacher, similarity, categories)
        if teacher in selection
        else np.zeros_like(ok_N)
        for teacher, ok_N in ok.items()
    }


def _allowed(
    rule: TeacherSelection,
    ok_N: npt.NDArray[np.bool_],
    teacher: str,
    similarity: Callable[[str], npt.NDArray[np.float32]],
    modality: Categories,
) -> npt.NDArray[np.bool_]:
    allowed_N = np.ones(len(ok_N), dtype=bool)
    if rule.modalities is not None:
        allowed_N &= modality.among(rule.modalities)
    if rule.min_similarity is None and rule.top_quantile is None:
        return allowed_N
    similarity_N = similarity(teacher)
    if rule.min_similarity is not None:
        allowed_N &= similarity_N >= rule.min_similarity
    if rule.top_quantile is not None and ok_N.any():
        allowed_N &= similarity_N >= np.quantile(similarity_N[ok_N], 1 - rule.top_quantile)
    return allowed_N


def _check_names(
    selection: Mapping[str, TeacherSelection],
    teachers: Sequence[str],
    *,
    known: Sequence[str],
    one_sided: Collection[str],
) -> None:
    problems = [
        f"select.{name}: the store has no such teacher{suggest(name, teachers)}"
        for name in selection
        if name not in teachers
    ]
    for teacher, rule in selection.items():
        problems += [
            f"select.{teacher}.modalities: no pair of the store has the modality {name!r}{suggest(name, known)}"
            for name in rule.modalities or []
            if name not in known
        ]
        problems += [
            f"select.{teacher}.{key}: the teacher encodes images alone and has no similarity; leave the key out"
            for key in ("min_similarity", "top_quantile")
            if teacher in one_sided and getattr(rule, key) is not None
        ]
    if problems:
        raise ConfigError(
            "\n".join(problems),
            hint=f"the store's teachers are {', '.join(teachers)}; its modalities are {', '.join(known) or 'unknown'}",
        )
