"""The command line of ``python -m extract``; nothing imports it but programs."""
