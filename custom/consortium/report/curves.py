"""Curves (placeholder)."""


class CurveWriter:
    def __init__(self, folder, hospitals):
        pass

    def round(self, record):
        pass

    def finish(self, result, final):
        pass

    def close(self):
        pass
