"""Published recommendation data sets."""
