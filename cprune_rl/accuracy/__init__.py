"""Images, training, accuracy oracles and the gate."""
