"""What a run shows people: tables for the terminal, plots, the HTML page."""
