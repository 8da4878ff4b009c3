"""The same extraction on the actors of a Ray cluster; the only package that imports Ray."""

import os

# A first local ray.init() turns token authentication on for the whole account, after which `ray job submit` fails, and
# nobody asked for usage reports. Ray reads both when it is imported. A setting of the user's stands, and so does
# that of a cluster.
if "RAY_ADDRESS" not in os.environ:
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
