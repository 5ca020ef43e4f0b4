"""A hospital's part of a FLARE job."""
