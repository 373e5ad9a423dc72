"""The dataset on disk: one Zarr v3 group, written in whole files that are committed once."""
