"""The agent: it plans on a model of the problem and corrects it by what it measures."""
