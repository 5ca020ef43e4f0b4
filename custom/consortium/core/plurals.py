"""Numbers with their nouns."""


def plural(number: int, noun: str, nouns: str = "") -> str:
    """Returns a number with its noun, in the singular or plural.

    Args:
        number: how many.
        noun: in the singular.
        nouns: in the plural, if it is not the singular with an s.
    """
    return f"{number} {noun if number == 1 else nouns or noun + 's'}"


def every(number: int, noun: str, nouns: str = "") -> str:
    """Returns the subject and verb of a sentence about all of them: "all 3 patients are"."""
    return f"all {plural(number, noun, nouns)} are" if number != 1 else f"the only {noun} is"
