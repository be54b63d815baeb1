"""The domain on numpy alone: networks, plans, schemes, the subgraph table, and the protocols."""
