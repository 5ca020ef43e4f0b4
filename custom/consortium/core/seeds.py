"""Seeds: all randomness of a run is a function of seed, hospital and round.

A hospital's own part of it is also a function of the job's settings and of the hospital's secret.
"""

import hashlib
import hmac


def derive_seed(seed: int, *parts: str | int) -> int:
    """Derives a 31-bit seed for one purpose, independent of all others (sha256).

    Args:
        seed: the job's seed.
        parts: the purpose, such as a hospital's name and a round.
    """
    return int.from_bytes(hashlib.sha256(_text(seed, *parts)).digest()[:4], "big") >> 1


def derive_secret_seed(secret: bytes, *parts: str | int) -> int:
    """Derives a seed of 256 bits that nobody can compute without the secret (HMAC, sha256).

    Args:
        secret: the hospital's.
        parts: the purpose, such as the job's seed, the hospital's name and a round.
    """
    return int.from_bytes(hmac.digest(secret, _text(*parts), "sha256"), "big")


def _text(*parts: str | int) -> bytes:
    return "\x1f".join(map(str, parts)).encode()
