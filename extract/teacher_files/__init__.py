"""Teacher entries, weight files, specs and downloads; knows neither models nor stores of features."""
