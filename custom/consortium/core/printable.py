"""Makes text from others safe to print: names, codes and reasons may hold a terminal's commands."""


def printable(text: str) -> str:
    """Replaces control characters, line breaks and invisible characters by `?`.

    A terminal obeys some of them (escape sequences), a log takes others for a new entry, and a
    reader is misled by those that reverse the direction of writing.
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def printable_lines(text: str) -> str:
    """Does the same for a text of our own that has several lines, such as a traceback."""
    return "\n".join(printable(line) for line in text.split("\n"))
