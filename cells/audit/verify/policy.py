"""The witnesses that count, and how many of them must sign: C2SP tlog-policy.

A file of keys is either a plain list, one key per line, or a policy:

    log cellbook/eu-west+8ab4de56+ASPC..
    witness tokyo cellbook/ap-tokyo/witness+2b93f81b+BEXp..
    witness bank witness.bank.example+03f1c2aa+BBzx..
    group outside any bank
    group enough all tokyo outside
    quorum enough
"""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from .note import WITNESS_KEY, Malformed, VerifierKey, own_witness, verifier_key

NONE = "none"
POLICY_WORDS = ("log", "witness", "group", "quorum")
# The maximum number of members of a group.
MEMBERS_MAX = 1_000


class Quorum(NamedTuple):
    """At least `threshold` of `members`, each the name of a witness's key or another quorum."""

    threshold: int
    members: tuple["str | Quorum", ...]

    def met(self, witnesses: Collection[str]) -> bool:
        """Whether these witnesses, given by key names, suffice."""
        signed = [each.met(witnesses) if isinstance(each, Quorum) else each in witnesses for each in self.members]
        return sum(signed) >= self.threshold

    def outside(self, origin: str) -> "Quorum":
        """The quorum without the log's own witness, which the holder of the log's key controls."""
        members = tuple(
            each.outside(origin) if isinstance(each, Quorum) else each
            for each in self.members
            if each != own_witness(origin)
        )
        return Quorum(self.threshold, members)

    def __str__(self) -> str:
        members = ", ".join(f"({each})" if isinstance(each, Quorum) else each for each in self.members)
        return f"{self.threshold} of {members or 'no witnesses'}"


class Policy(NamedTuple):
    keys: tuple[VerifierKey, ...]
    # None: the file has no quorum.
    quorum: Quorum | None = None


def policy_in(text: str) -> Policy:
    """Reads a file. Lines that are empty or begin with # are skipped. Raises Malformed."""
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if any(line.split()[0] in POLICY_WORDS for line in lines):
        return _policy([line.split() for line in lines])
    return Policy(tuple(map(verifier_key, lines)))


def any_of(count: int, keys: Sequence[VerifierKey]) -> Quorum:
    """A quorum of `count` of all given witness keys. Raises Malformed if there are fewer."""
    names = tuple(sorted({key.name for key in keys if key.kind == WITNESS_KEY}))
    if count > len(names):
        raise Malformed(f"{count} witnesses are required, and the keys given are of {len(names)}: give --key more")
    return Quorum(count, names)


def _policy(lines: Sequence[Sequence[str]]) -> Policy:
    keys: list[VerifierKey] = []
    named: dict[str, str | Quorum] = {}
    quorum: Quorum | None = None
    for words in lines:
        match words:
            case ["log", key, *_]:
                keys.append(verifier_key(key))
            case ["witness", name, key, *_]:
                keys.append(verifier_key(key))
                _name(named, name, keys[-1].name)
            case ["group", name, threshold, *members]:
                _name(named, name, _group(threshold, members, named))
            case ["quorum", name] if quorum is None:
                member = Quorum(0, ()) if name == NONE else _known(named, name)
                quorum = member if isinstance(member, Quorum) else Quorum(1, (member,))
            case _:
                raise Malformed(f"no line of a policy: {' '.join(words)[:120]!r}")
    if quorum is None:
        raise Malformed("a policy needs a line `quorum NAME`, or `quorum none`")
    return Policy(tuple(keys), quorum)


def _group(threshold: str, members: Sequence[str], named: Mapping[str, str | Quorum]) -> Quorum:
    counts = {"any": 1, "all": len(members)}
    count = counts.get(threshold, int(threshold) if threshold.isdecimal() else 0)
    if not 1 <= count <= len(members) <= MEMBERS_MAX or len(set(members)) < len(members):
        raise Malformed(f"a group has a threshold of any, all or 1 to its number of members: {threshold!r}")
    return Quorum(count, tuple(_known(named, each) for each in members))


def _known(named: Mapping[str, str | Quorum], name: str) -> str | Quorum:
    if name not in named:
        raise Malformed(f"{name!r} is no witness or group of a line before")
    return named[name]


def _name(named: dict[str, str | Quorum], name: str, what: str | Quorum) -> None:
    if name in named or name == NONE:
        raise Malformed(f"{name!r} is named twice")
    named[name] = what
