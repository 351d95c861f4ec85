"""LightningDataModules: they read a store by path and know no dataset."""
