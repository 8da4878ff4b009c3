"""Which receipts were found to be valid before, so that planning reads none of them twice.

A receipt is valid if it is of the teacher's spec and of the range's pairs. To see that, it and its range's pairs have
to be read, which takes long for a hundred thousand of them. What was found is kept in the store, with the receipt's
size: whatever changes a receipt goes through this program, a damaged one has another size, and what has not is found by
``store verify``.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field

from store.errors import StoreError
from store.format.records import KNOWN_UNITS_KEY, Receipt, record_bytes
from store.io.location import Location

log = logging.getLogger(__name__)

VERSION = 1


@dataclass(slots=True)
class KnownUnits:
    """Valid receipts, and digests of pairs.

    Attributes:
        digests: by range, the row after its last and the digest of its pairs.
        specs: spec hash by teacher.
        sizes: bytes of each valid receipt, by teacher and range.
        changed: whether there is anything that is not in the store yet.
    """

    digests: dict[int, tuple[int, str]] = field(default_factory=dict)
    specs: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, dict[int, int]] = field(default_factory=dict)
    changed: bool = False

    def has(self, teacher: str, range_id: int, *, size: int, spec_hash: str, stop: int) -> bool:
        """Whether a receipt of that size was found valid for this spec and these rows."""
        return (
            self.specs.get(teacher) == spec_hash
            and self.sizes[teacher].get(range_id) == size
            and self.digests.get(range_id, (0, ""))[0] == stop
        )

    def digest(self, range_id: int, *, stop: int) -> str | None:
        """Return the digest of a range's pairs if it is known."""
        known_stop, digest = self.digests.get(range_id, (0, ""))
        return digest if known_stop == stop else None

    def add(self, receipt: Receipt, *, size: int | None = None) -> None:
        """Note a valid receipt, and the size of its file if that may be another than of one written now."""
        if self.specs.get(receipt.teacher) != receipt.spec_hash:
            self.specs[receipt.teacher], self.sizes[receipt.teacher] = receipt.spec_hash, {}
        if self.digests.get(receipt.range) != (receipt.stop, receipt.pairs_digest):
            # Of the teachers that were valid for other pairs of this range, none is now.
            for sizes in self.sizes.values():
                sizes.pop(receipt.range, None)
            self.digests[receipt.range] = receipt.stop, receipt.pairs_digest
        self.sizes[receipt.teacher][receipt.range] = len(record_bytes(receipt)) if size is None else size
        self.changed = True

    @classmethod
    def read(cls, store: Location) -> KnownUnits:
        """Return what a store knows, nothing where that cannot be read."""
        try:
            content = json.loads(store.read(KNOWN_UNITS_KEY))
            if content["version"] != VERSION:
                return cls()
            return cls(
                digests={int(key): (int(stop), str(digest)) for key, (stop, digest) in content["digests"].items()},
                specs={name: str(teacher["spec_hash"]) for name, teacher in content["teachers"].items()},
                sizes={
                    name: {int(range_id): int(size) for range_id, size in teacher["sizes"].items()}
                    for name, teacher in content["teachers"].items()
                },
            )
        except FileNotFoundError:
            return cls()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("%s: cannot be read, all receipts are read instead: %r", store.show(KNOWN_UNITS_KEY), error)
            return cls()

    def write(self, store: Location) -> None:
        """Keep it in the store; a store that takes it not is none the worse, the next plan takes longer."""
        if not self.changed:
            return
        teachers = {name: {"spec_hash": spec_hash, "sizes": self.sizes[name]} for name, spec_hash in self.specs.items()}
        content = {"version": VERSION, "digests": self.digests, "teachers": teachers}
        try:
            store.write(KNOWN_UNITS_KEY, json.dumps(content).encode())
            self.changed = False
        except StoreError as error:
            log.warning("what is committed cannot be kept for the next plan: %s", error)
