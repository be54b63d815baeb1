"""Where latencies come from: a device through TVM, or a recording."""
