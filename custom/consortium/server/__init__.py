"""The orchestrator's side of a run, without FLARE."""
