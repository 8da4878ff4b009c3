"""The command line of ``python -m store``; nothing imports it but programs."""
