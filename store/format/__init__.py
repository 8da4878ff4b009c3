"""The store format on disk: records, arrays, pair table, commit; knows neither corpora nor readers."""
