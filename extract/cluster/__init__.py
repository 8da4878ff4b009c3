"""A run on Ray: actors that hold all teachers, and a queue of ranges in the driver. Ray is imported in here alone."""

import os

# A first local ray.init() turns token authentication on for the whole account, after which `ray job submit` fails; and
# nobody asked for usage reports. Both are read when ray is imported, and what the user has set stands.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
