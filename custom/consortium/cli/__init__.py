"""What people call: the `consortium` command of a hospital, and what the scripts share with it."""
