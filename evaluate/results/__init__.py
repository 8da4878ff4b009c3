"""Records of results and the files that hold them; knows neither datasets nor models."""
