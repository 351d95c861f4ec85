"""Lightning modules that score the candidates of a query; one file, one ranker."""
