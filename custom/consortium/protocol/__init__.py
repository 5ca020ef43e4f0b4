"""Everything that hospitals and the orchestrator send to each other across the trust boundary."""
