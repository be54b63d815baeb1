"""The page of a comparison, and the leaderboard."""
