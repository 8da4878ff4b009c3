"""Fixtures and helpers of all tests."""

from __future__ import annotations

import signal

# A shell that starts the tests in the background has them ignore Ctrl-C, and with them every program that a test starts
# and then interrupts; a handler of our own is not inherited, so that those programs have the usual one again.
signal.signal(signal.SIGINT, signal.default_int_handler)
