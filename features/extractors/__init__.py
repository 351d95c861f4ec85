"""Ways from texts to a store of features; one file, one extractor."""
