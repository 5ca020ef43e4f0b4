"""The adapters that NVIDIA FLARE loads; nothing outside this folder imports nvflare.

They translate between FLARE's types and the package's own, without any mathematics. The classes
that FLARE builds by name are in `server.components`, `client.components` and `parent.components`,
with nothing else. A kit lists the exact names of those that a job's configuration may build.
"""
