"""The only way of the commands to a terminal, so that nobody else's text can steer it.

Names of jobs, hospitals and files are chosen by others. What a terminal or rich would obey in them
is shown as `?` or as it is written.
"""

import sys
from typing import TYPE_CHECKING, Any

from consortium.core.printable import printable

if TYPE_CHECKING:
    from rich.console import Console


def say(text: object, *, error: bool = False) -> None:
    """Prints one line.

    Args:
        text: without line breaks.
        error: whether it goes to stderr.
    """
    print(printable(str(text)), file=sys.stderr if error else sys.stdout, flush=True)


def terminal(**options: Any) -> "Console":
    """Returns a console of rich for tables and styled lines.

    Args:
        options: of `rich.console.Console`.
    """
    from rich.console import Console
    from rich.text import Text

    class Terminal(Console):
        """Shows text as it is written: no markup, no emoji, no control characters."""

        def render_str(self, text: str, **options: Any) -> Text:
            """Every text that is not styled by us passes here, a table's cells included."""
            return super().render_str(printable(text), **options)

    return Terminal(highlight=False, markup=False, emoji=False, **options)
