"""Published search data sets."""
