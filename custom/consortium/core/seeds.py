"""Seeds: all randomness of a run is a function of seed, hospital and round."""

import hashlib


def derive_seed(seed: int, *parts: str | int) -> int:
    """Derives a 31-bit seed for one purpose, independent of all others (sha256).

    Args:
        seed: the job's seed.
        parts: the purpose, such as a hospital's name and a round.
    """
    text = "\x1f".join([str(seed), *map(str, parts)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1
