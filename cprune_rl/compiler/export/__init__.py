"""From a torch network to the tasks that TVM tunes."""
