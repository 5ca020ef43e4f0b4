"""The shells that NVIDIA FLARE loads; nothing outside this folder imports nvflare.

They translate between FLARE's types and the package's own and hold no mathematics. The classes that
FLARE builds by name stand in `server.components`, `client.components` and `parent.components`,
without anything else; a kit lists by exact name those that a job's configuration may build.
"""
