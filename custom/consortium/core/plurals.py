"""Numbers with their nouns."""


def plural(number: int, noun: str, nouns: str = "") -> str:
    """Returns a number with its noun, in the singular or plural.

    Args:
        number: how many.
        noun: in the singular.
        nouns: in the plural, if it is not the singular with an s.
    """
    return f"{number} {noun if number == 1 else nouns or noun + 's'}"
