"""``python -m train``."""

from __future__ import annotations

from store.console import main
from train.cli.program import INTERRUPTED, app

if __name__ == "__main__":
    main(app, program="python -m train", interrupted=INTERRUPTED)
