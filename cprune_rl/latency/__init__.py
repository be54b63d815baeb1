"""Task latencies without a device: interpolated, recorded, predicted, overridden."""
