"""The orchestrator's part of a FLARE job."""
