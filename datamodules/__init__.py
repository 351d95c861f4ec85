"""LightningDataModules: read a store by its path, independently of the dataset in it."""
