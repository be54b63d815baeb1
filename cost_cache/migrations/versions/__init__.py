"""One script for each schema. A released one is never changed, and imports nothing of ours."""
