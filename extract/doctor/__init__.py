"""Looks at a machine, its cluster, a store's place and the teachers before a run; nothing that it writes stays."""
