"""Structures are outlined on scans."""
