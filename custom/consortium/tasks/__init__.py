"""What is learned: a folder for each kind of task."""
