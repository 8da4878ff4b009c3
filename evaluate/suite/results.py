"""The result file of a dataset: results of single models join it, and it knows which of them are up to date.

Beside ``models`` it holds under ``digests`` what they were computed from: of the dataset, and of each model its spec
hash.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluate.tasks.group_accuracy import ZeroShotResult, oracle
from store.errors import ConfigError
from store.files import write_atomic

log = logging.getLogger(__name__)

ORACLE = "oracle"
"""Name and role of the entry that takes the best teacher of each group; no model may have it."""

Content = dict[str, Any]


@dataclass(kw_only=True, frozen=True, slots=True)
class ResultFile:
    """Where the results of one dataset are kept.

    Attributes:
        path: the JSON file.
        dataset: its name.
        digest: of all that decides a result, but for the model.
        roles: ``teacher``, ``student`` or ``task_only`` of each model that the pipeline has, in order.
    """

    path: Path
    dataset: str
    digest: str
    roles: Mapping[str, str]

    def read(self) -> Content:
        """Return what the file holds; without a file that is no model.

        Raises:
            ConfigError: it is no file of results.
        """
        if not self.path.exists():
            return {"models": {}}
        try:
            content = json.loads(self.path.read_text())
        except ValueError as error:
            raise self._damaged(str(error)) from error
        if not isinstance(content, dict) or not isinstance(content.get("models"), dict):
            raise self._damaged("there are no models in it")
        return content

    def _damaged(self, why: str) -> ConfigError:
        hint = "move it away and run the same command again, or set another evaluate.out"
        return ConfigError(f"{self.path}: is not a file of results: {why}", hint=hint)

    def up_to_date(self, spec_hashes: Mapping[str, str]) -> set[str]:
        """Return which of these models have a result of the same spec and dataset already."""
        content = self.read()
        digests = content.get("digests", {})
        if digests.get("dataset") != self.digest:
            return set()
        return {
            name
            for name, spec_hash in spec_hashes.items()
            if name in content["models"] and digests["models"].get(name) == spec_hash
        }

    def add(self, name: str, result: ZeroShotResult, *, spec_hash: str, excluded: Mapping[str, int]) -> None:
        """Put a model's result in place of its old one; results of other images or prompts are dropped with a warning.

        Args:
            name: the model's.
            result: its accuracies.
            spec_hash: what tells later whether they are up to date.
            excluded: how many images were left out, by reason.
        """
        # Read anew for each model: another program may have added its results meanwhile.
        old = self.read()
        models = {other: entry for other, entry in old["models"].items() if other not in (name, ORACLE)}
        digests = dict(old.get("digests", {}).get("models", {}))
        if models and not self._is_comparable(old, result):
            shown = ", ".join(models)
            log.warning("%s: other images, classes or prompts: the old results were replaced (%s)", self.path, shown)
            models, digests = {}, {}
        content = {"dataset": self.dataset, "task": "zero_shot", "images": result.images, "excluded": dict(excluded)}
        content["models"] = models | {name: _entry(self.roles[name], result)}
        content["digests"] = {"dataset": self.digest, "models": digests | {name: spec_hash}}
        self._write(content)

    def _is_comparable(self, old: Content, result: ZeroShotResult) -> bool:
        # Files of earlier versions hold no digest; there the numbers of images have to do.
        digest = old.get("digests", {}).get("dataset", self.digest)
        found = old.get("dataset"), old.get("images"), digest
        return found == (self.dataset, result.images, self.digest)

    def settle(self) -> Content:
        """Return the file's content, with the roles, models and oracle that the pipeline has now."""
        return self._write(self.read())

    def _write(self, content: Content) -> Content:
        found = content["models"]
        gone = sorted(set(found) - set(self.roles) - {ORACLE})
        if gone:
            log.warning("%s: the pipeline has no %s any more: dropped", self.path, ", ".join(gone))
        models = {name: found[name] | {"role": role} for name, role in self.roles.items() if name in found}
        teachers = {
            name: ZeroShotResult(by_group=entry["by_modality"], images=content["images"])
            for name, entry in models.items()
            if entry["role"] == "teacher"
        }
        if teachers:
            models[ORACLE] = _entry(ORACLE, oracle(teachers))
        digests = content["digests"]
        kept = {name: digest for name, digest in digests["models"].items() if name in models}
        content = content | {"models": models, "digests": digests | {"models": kept}}
        data = (json.dumps(content, indent=1) + "\n").encode()
        if not self.path.exists() or self.path.read_bytes() != data:
            write_atomic(self.path, data)
        return content


def _entry(role: str, result: ZeroShotResult) -> Content:
    return {"role": role, "macro_accuracy": result.macro_accuracy, "by_modality": result.by_group}
