"""What an action does to a plan."""
