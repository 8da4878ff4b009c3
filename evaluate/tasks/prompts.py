"""Turns the prompts of classes into one embedding per class.

Axes: E embedding width, K classes, P prompts.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from store.errors import CorpusError

Embeddings = npt.NDArray[np.float32]
EncodeText = Callable[[Sequence[str]], Embeddings]


def prompt_ensemble(encode_text: EncodeText, prompts: Sequence[Sequence[str]]) -> Embeddings:
    """Return one unit-norm embedding per class, (K, E): the mean of its prompts' unit-norm embeddings, normalised.

    This is CLIP's prompt ensembling (Radford et al. 2021, section 3.1.4).

    Args:
        encode_text: returns embeddings of any length.
        prompts: at least one for each of K classes; the number may differ.

    Raises:
        CorpusError: a class has no prompt, or embeddings of prompts are not finite or zero.
    """
    without = [str(number) for number, own in enumerate(prompts) if not own]
    if without:
        raise CorpusError(f"classes without a prompt: {', '.join(without)}")
    prompt_PE = np.asarray(encode_text([prompt for own in prompts for prompt in own]), np.float32)
    length_P1 = np.linalg.norm(prompt_PE, axis=1, keepdims=True)
    if not (np.isfinite(length_P1) & (length_P1 > 0)).all():
        raise CorpusError(f"of {len(prompt_PE)} embeddings of prompts some are zero or not finite")
    begins = np.cumsum([0, *(len(own) for own in prompts)])
    unit_PE = prompt_PE / length_P1
    mean_KE = np.stack([unit_PE[begin:end].mean(axis=0) for begin, end in itertools.pairwise(begins)])
    return np.asarray(mean_KE / np.linalg.norm(mean_KE, axis=1, keepdims=True), np.float32)
