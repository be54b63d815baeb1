"""The domain without torch, compiler or database: networks, plans, schemes, tables, protocols."""
