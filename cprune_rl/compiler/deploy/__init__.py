"""The whole network: built, timed, exported."""
