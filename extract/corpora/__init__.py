"""Produces corpora, imports the released cache and fills the pixel cache; knows no teacher."""
