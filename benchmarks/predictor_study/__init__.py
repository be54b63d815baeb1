"""How far the latency predictor may be believed."""
