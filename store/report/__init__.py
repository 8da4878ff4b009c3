"""One page about a store, and what pages of all programs are made of; draws, and reads only by `contents.py`."""
