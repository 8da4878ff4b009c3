"""``python -m evaluate``."""

from __future__ import annotations

from evaluate.cli.program import app
from store.console import main

if __name__ == "__main__":
    main(app, program="python -m evaluate")
