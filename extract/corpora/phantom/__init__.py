"""Draws the phantom corpus, synthetic biomedical images with captions; knows neither stores nor configuration."""
