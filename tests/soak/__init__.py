"""The soak: everything at work at once, and an adversary that does harm to it, the same for the same seed."""
