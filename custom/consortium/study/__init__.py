"""A job's folder, filled in for a study."""
