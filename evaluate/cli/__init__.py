"""The command line of ``python -m evaluate``; nothing imports it but programs."""
