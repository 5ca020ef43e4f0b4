"""The shells that NVIDIA FLARE loads; nothing outside this folder imports nvflare.

They translate between FLARE's types and the package's own and hold no mathematics. A hospital
allow-lists `consortium.flare.` and nothing else: a job's configuration can build these and no more.
"""
