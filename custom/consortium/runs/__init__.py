"""Runs a job over a folder of hospitals on one machine: in process, simulated or federated."""
