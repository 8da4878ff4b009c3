"""``python -m store upgrade``: brings a store of an older format to the present one."""

from __future__ import annotations

import typer

from store.check.upgrade import upgrade as bring_up_to_date
from store.console import say
from store.format.records import VERSION
from store.io.location import locate

from .options import StoreArgument

app = typer.Typer()


@app.command(epilog="Example: python -m store upgrade runs/demo/store")
def upgrade(store: StoreArgument) -> None:
    """Bring a store of an older format to the present one, in place; its rows and features stay as they are."""
    changed = bring_up_to_date(locate(store))
    state = "is now of" if changed else "was already of"
    say(f"{store} {state} format {VERSION}")
