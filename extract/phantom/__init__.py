"""The phantom corpus: procedurally drawn biomedical images with captions, what Shepp-Logan is to CT."""

from .catalog import FINDINGS, MODALITIES, Finding, Modality, caption, known_finding, known_modality
from .corpus import PhantomSummary, write_corpus
from .drawing import draw

__all__ = [
    "FINDINGS",
    "MODALITIES",
    "Finding",
    "Modality",
    "PhantomSummary",
    "caption",
    "draw",
    "known_finding",
    "known_modality",
    "write_corpus",
]
