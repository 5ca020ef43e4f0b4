"""Report (placeholder)."""


def render_report(result, rounds, *, final, pictures=()):
    return "x"
