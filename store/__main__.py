"""``python -m store``."""

from __future__ import annotations

from store.cli.program import app

from .console import main

if __name__ == "__main__":
    main(app, program="python -m store")
