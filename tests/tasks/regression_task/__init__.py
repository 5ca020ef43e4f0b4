"""A fourth task, for tests: predicts the days of a patient's stay from a table."""
