"""The same extraction on the actors of a Ray cluster; the only package that imports Ray."""
