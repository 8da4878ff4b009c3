"""Texts: captions as they are kept, their language, and tokens in bounded time."""
