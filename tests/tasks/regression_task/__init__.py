"""A fourth task, for tests: how many days a patient stays is predicted from a table."""
