"""Looks at a store's runs, while they work and afterwards; changes no features."""
