"""How accurate the latency predictor is on networks that it was not fitted on."""
