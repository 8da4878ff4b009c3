"""The command line of ``python -m train``; nothing imports it but programs."""
