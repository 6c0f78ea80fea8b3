"""An external witness: it signs each checkpoint of a growing log, and raises an alarm if a log differs from before."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from typer.testing import CliRunner

from cells.audit.proofs.keys import SEED_BYTES, CellKeys, SigningKey, checkpoint_body, new_keys
from cells.audit.proofs.ports import SignedCheckpoint
from cells.audit.proofs.tree import consistency_spans
from cells.audit.verify.note import WITNESS_KEY, checkpoint_in, origin_of
from cells.audit.verify.tree import leaf_hash, tree_root
from cells.audit.witness.cosigner import Cosignatures, Witness
from cells.audit.witness.follower import Follower
from cells.domain.audit.refusals import CheckpointNotFound, NotSignedYet
from cells.domain.refusals import FieldInvalid
from cells.store.ports import PeerUnknown
from cells.store.unusable import CannotServe
from cells.time.clocks import SystemClock
from server.audit.memory import FileMemory
from server.cli.access import PLAIN
from server.cli.client import ClientError
from server.cli.main import app
from server.cli.witness import GrpcLogs, WitnessMetrics, faults, follow
from tests.doubles.proofs import MemoryProofs
from tests.doubles.store import MemoryStore
from tests.unit.test_merkle import leaves, made

HERE = "us-east"
KEYS = new_keys(HERE, os.urandom)
OWN = SigningKey(name="witness.bank.example", kind=WITNESS_KEY, seed=os.urandom(SEED_BYTES))
PINNED = {origin_of(HERE): KEYS.log.verifier}


@dataclass(slots=True)
class Log:
    """A log that signs on request, and accepts cosignatures."""

    hashes: list[bytes] = field(default_factory=list)
    notes: dict[int, str] = field(default_factory=dict)
    taken: list[int] = field(default_factory=list)
    keys: CellKeys = KEYS
    away: bool = False
    sequence: int = 0
    knows: Sequence[SigningKey] = (OWN,)

    def grow(self, *sizes: int, other: bool = False) -> "Log":
        """`other`: with different leaves."""
        for size in sizes:
            more = leaves(size)[len(self.hashes) :]
            self.hashes += [leaf_hash(b"other" + each) for each in more] if other else more
            self.sequence += 1
            body = checkpoint_body(origin_of(HERE), size, tree_root(self.hashes), self.sequence)
            self.notes[size] = self.keys.log.note(body)
        return self

    def cut(self, size: int) -> "Log":
        del self.hashes[size:]
        self.notes = {each: note for each, note in self.notes.items() if each <= size}
        self.sequence = len(self.notes)
        return self

    def set(self, **fields: object) -> "Log":
        for name, value in fields.items():
            setattr(self, name, value)
        return self

    async def after(self, cell: str, size: int) -> str:
        if self.away:
            raise PeerUnknown(f"{cell} is cut off")
        if not self.notes:
            raise NotSignedYet(cell=cell, position=0, size=0)
        following = [each for each in self.notes if each > size] if size else []
        return self.notes[min(following) if following else max(self.notes)]

    async def growth(self, cell: str, old_size: int, new_size: int) -> list[bytes]:
        if old_size not in self.notes:
            raise CheckpointNotFound(cell=cell, size=old_size, below=0, above=0)
        return made(self.hashes[:new_size], consistency_spans(old_size, new_size))

    async def hand_back(self, cell: str, size: int, line: str) -> None:
        proofs = MemoryProofs(MemoryStore(HERE))
        await proofs.add_checkpoint(SignedCheckpoint(size, b"", self.notes[size], SystemClock().wall()))
        keys = [each.verifier for each in self.knows]
        await Cosignatures(cell=cell, keys=keys, proofs=proofs, clock=SystemClock()).add(size, line)
        self.taken.append(size)


def memory_at(path: Path, *, new: bool = True) -> FileMemory:
    memory = FileMemory(path=path, keys=PINNED)
    memory.load(new=new)
    return memory


def follower_of(log: Log, memory: FileMemory) -> Follower:
    witness = Witness(cell=OWN.name, key=OWN, proofs=memory, clock=SystemClock(), pinned=PINNED, each=True)
    return Follower(cells=[HERE], witness=witness, logs=log)


@pytest.fixture
def log() -> Log:
    built = Log()
    built.grow(3, 7)
    return built


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[FileMemory]:
    built = memory_at(tmp_path / "memory")
    yield built
    built.close()


async def test_each_checkpoint_is_signed_and_handed_back(log: Log, memory: FileMemory) -> None:
    """First the newest, then one after the other; none twice, and after a restart from the same point."""
    follower = follower_of(log, memory)
    await follower.round()
    assert log.taken == [7]
    log.grow(9, 12, 300)
    for _ in range(2):
        await follower.round()
    assert log.taken == [7, 9, 12, 300]
    memory.close()
    again = follower_of(log, memory_at(memory.path, new=False))
    log.grow(301)
    await again.round()
    assert log.taken == [7, 9, 12, 300, 301]
    assert not follower.alarms | follower.problems | again.alarms | again.problems


class SlowClock(SystemClock):
    """Each look at it takes as long as a slow answer."""

    now_s = 0.0

    def monotonic_s(self) -> float:
        self.now_s += 10.0
        return self.now_s


async def test_a_slow_log_that_always_has_more_keeps_no_other_waiting(log: Log, memory: FileMemory) -> None:
    """Its turn ends after a time; the next round goes on where this one ended."""
    follower = follower_of(log, memory)
    await follower.round()
    follower.witness.clock = SlowClock()
    sizes = range(8, 20)
    log.grow(*sizes)
    await follower.round()
    assert log.taken == [7, 8, 9, 10, 11]
    for _ in sizes:
        await follower.round()
    assert log.taken == [7, *sizes]
    assert not follower.alarms | follower.problems


REWRITTEN = [*leaves(2), leaf_hash(b"other"), *leaves(7)[3:]]
# What happens to a log whose checkpoint of size 7 is signed, and what is said of it.
HAPPENS: dict[str, tuple[Callable[[Log], object], str]] = {
    "cut": (lambda log: log.cut(3), "a checkpoint of size 3 takes some back"),
    "cut and grown otherwise": (
        lambda log: log.cut(3).grow(7, other=True),
        "those of the checkpoint of size 7 are others",
    ),
    "cut and grown further": (
        lambda log: log.cut(3).grow(8, 9, other=True),
        "has signed no checkpoint of size 7",
    ),
    "rewritten": (lambda log: log.set(hashes=[*REWRITTEN]).grow(9), "those of the checkpoint of size 9 are others"),
    "lost one": (lambda log: log.grow(9, 11).notes.pop(9), "checkpoint 2: the one of size 11 is not 4"),
    "lost what was seen": (lambda log: log.grow(9).notes.pop(7), "has signed no checkpoint of size 7"),
    "lost all": (lambda log: log.notes.clear(), "a checkpoint of size 0 takes some back"),
    "numbered anew": (lambda log: log.set(sequence=0).grow(9), "the one of size 9 is not 1"),
    "of another key": (lambda log: log.set(keys=new_keys(HERE, os.urandom)).grow(9), "the keys given are"),
}


@pytest.mark.parametrize(("happens", "said"), HAPPENS.values(), ids=HAPPENS)
async def test_a_log_that_is_not_what_it_was_is_an_alarm(
    log: Log, memory: FileMemory, happens: Callable[[Log], object], said: str
) -> None:
    """None of it is signed, in any round and after a restart, however else the log grows."""
    follower = follower_of(log, memory)
    await follower.round()
    happens(log)
    for _ in range(2):
        await follower.round()
        assert said in follower.alarms[HERE]
    memory.close()
    again = follower_of(log, memory_at(memory.path, new=False))
    await again.round()
    assert said in again.alarms[HERE]
    assert log.taken == [7]


async def test_it_tells_what_is_wrong(log: Log, memory: FileMemory) -> None:
    """To supervisors and Prometheus, by cell."""
    follower, registry = follower_of(log, memory), CollectorRegistry()
    registry.register(WitnessMetrics(follower))

    def values() -> list[float | None]:
        names = ("cellbook_witness_size", "cellbook_witness_alarm", "cellbook_witness_problem")
        return [registry.get_sample_value(name, {"cell": HERE}) for name in names]

    await follower.round()
    assert (faults(follower), values()) == ("", [7, 0, 0])
    log.cut(3)
    await follower.round()
    follower.unreachable("no router answers")
    assert values() == [7, 1, 1]
    assert "takes some back" in faults(follower)
    assert "no router answers" in faults(follower)


async def test_one_look_ends_with_what_is_wrong(log: Log, memory: FileMemory) -> None:
    """Its exit code tells a timer. A router that is away is no alarm, but no success either."""
    logs = GrpcLogs(router="127.0.0.1:1", access=PLAIN)
    with pytest.raises(ClientError, match="us-east: no router answers at"):
        await follow(follower_of(log, memory), logs, once=True, every_s=1.0)


def test_the_command_says_what_it_lacks(tmp_path: Path) -> None:
    """Before it begins."""
    texts = {"logs": KEYS.log.verifier, "own": OWN.text, "log": KEYS.log.text, "witnesses": OWN.verifier}
    for name, text in texts.items():
        (tmp_path / name).write_text(f"{text}\n")
    for keys, own, said in (
        ("logs", "own", "has nothing of cellbook/us-east: --new begins"),
        ("logs", "none", "new-key --witness NAME"),
        ("logs", "log", "has the key of a log"),
        ("witnesses", "own", "give the public key of each log"),
    ):
        files = {"--key": keys, "--signing-key": own, "--memory": "seen"}
        options = [text for option, name in files.items() for text in (option, str(tmp_path / name))]
        done = CliRunner().invoke(app, ["witness", *options])
        assert (done.exit_code, said in done.stderr) == (2, True), done.stderr


async def test_an_alarm_ends_when_the_log_is_back(log: Log, memory: FileMemory) -> None:
    """For example when the right database is restored; it stays while the cell cannot be asked."""
    follower, whole = follower_of(log, memory), dict(log.notes)
    await follower.round()
    log.cut(3)
    await follower.round()
    log.away = True
    await follower.round()
    assert (HERE in follower.alarms, follower.problems) == (True, {HERE: f"{HERE} is cut off"})
    log.away, log.hashes, log.notes = False, leaves(7), whole
    await follower.round()
    assert not follower.alarms | follower.problems


async def test_a_cell_that_does_not_know_it_is_followed_all_the_same(log: Log, memory: FileMemory) -> None:
    """The problem is told; as soon as the key is there, the cell gets the last signature."""
    log.knows = ()
    follower = follower_of(log, memory)
    await follower.round()
    log.grow(9)
    await follower.round()
    assert "it takes no cosignature, see its setting witness_keys_file: cosignature" in follower.problems[HERE]
    assert (follower.sizes, follower.alarms, log.taken) == ({HERE: 9}, {}, [])
    log.knows = (OWN,)
    await follower.round()
    assert (follower.problems, log.taken) == ({}, [9])


async def test_a_cell_takes_what_a_known_witness_has_signed_alone(log: Log) -> None:
    """Not the line of another witness, for another checkpoint, or two lines."""
    body = checkpoint_body(origin_of(HERE), 7, checkpoint_in(log.notes[7], [KEYS.log.verifier]).root, 2)
    line = OWN.cosign(body, 1)
    for wrong in (
        SigningKey(name=OWN.name, kind=WITNESS_KEY, seed=bytes(SEED_BYTES)).cosign(body, 1),
        OWN.cosign(body.replace("sequence 2", "sequence 3"), 1),
        KEYS.log.sign(body),
        line * 2,
        "junk\n",
        "\n",
    ):
        with pytest.raises(FieldInvalid):
            await log.hand_back(HERE, 7, wrong)
    await log.hand_back(HERE, 7, line)
    assert log.taken == [7]


async def test_without_its_memory_it_does_not_begin(log: Log, memory: FileMemory) -> None:
    """Missing, cut, changed, or of another log's key: the message says what to do. Only one process uses it."""
    await follower_of(log, memory).round()
    with pytest.raises(CannotServe, match="in use by another process"):
        memory_at(memory.path)
    memory.close()
    whole = memory.path.read_text()
    for content, said in (
        (whole[:-20], "is damaged"),
        ("", "is damaged"),
        (whole.replace("sequence 2", "sequence 1"), "is damaged"),
        (whole.replace("witness/1", "witness/2"), "is damaged"),
        ('{"cellbook": "witness/1", "seen": []}', "has nothing of cellbook/us-east: --new begins"),
    ):
        memory.path.write_text(content)
        with pytest.raises(CannotServe, match=said):
            memory_at(memory.path, new=False)
    memory.path.write_text(whole[:-20])
    with pytest.raises(CannotServe, match="is damaged"):
        memory_at(memory.path, new=True)
    memory.path.unlink()
    with pytest.raises(CannotServe, match="has nothing of"):
        memory_at(memory.path, new=False)
    memory.path.write_text(whole)
    other = FileMemory(path=memory.path, keys={origin_of(HERE): new_keys(HERE, os.urandom).log.verifier})
    with pytest.raises(CannotServe, match="by another key"):
        other.load(new=True)
