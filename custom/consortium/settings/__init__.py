"""A job's `settings.json`: the sections that every task has. A task's own stand with the task."""
