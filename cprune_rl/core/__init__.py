"""The domain, on numpy alone: networks, plans, schemes, the subgraph table, loss models, what parts promise each other."""
