"""Texts: captions as they are kept, tokens in bounded time, and templates of paths."""
