"""Samples that no one can choose: they follow from a seed and a signed checkpoint."""

import base64
from hashlib import sha256

from .note import Checkpoint

EVENTS, ACCOUNTS = "events", "accounts"


def picked(seed: str, checkpoint: Checkpoint, what: str, count: int, among: int) -> list[int]:
    """`count` different numbers from 0 up to `among`, each as likely as any other; all of them where there are no more.

    Number i of the draw is SHA-256 over a text of the seed, the log, the size, the root, `what` and i, taken modulo
    `among`; a number that was drawn before is skipped.
    """
    root = base64.b64encode(checkpoint.root).decode()
    text = f"cellbook sample/1\n{seed}\n{checkpoint.origin}\n{checkpoint.size}\n{root}\n{what}\n"
    found: dict[int, None] = {}
    draw = 0
    while len(found) < min(count, among):
        found[int.from_bytes(sha256(f"{text}{draw}\n".encode()).digest()) % among] = None
        draw += 1
    return sorted(found)


def positions(seed: str, checkpoint: Checkpoint, count: int) -> list[int]:
    """The positions of the sampled events."""
    return [index + 1 for index in picked(seed, checkpoint, EVENTS, count, checkpoint.size)]
