"""The kinds of tasks: one folder for each."""
