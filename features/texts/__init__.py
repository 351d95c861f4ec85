"""What sources yield before anything is embedded."""
