"""Signed notes: published examples are accepted, changed ones are not."""

import base64
import os
from pathlib import Path

import pytest

from cells.audit.proofs.keys import cell_keys_in, checkpoint_body, new_keys, signing_key
from cells.audit.verify.command import BAD, GOOD, main
from cells.audit.verify.note import Malformed, Policy, Quorum, any_of, checkpoint_in, policy_in, unbase64, verifier_key
from cells.store.unusable import CannotServe
from server.audit.keys import signing_keys

# The example of golang.org/x/mod/sumdb/note.
GO_VERIFIER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_SIGNER = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
GO_TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
GO_LINE = (
    "\u2014 PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
KEYS, OTHERS = new_keys("us-east", os.urandom), new_keys("us-east", os.urandom)
ROOT = bytes(range(32))
BODY = checkpoint_body("cellbook/us-east", 7, ROOT)
NOTE = f"{BODY}\n{KEYS.log.sign(BODY)}"


def test_keys_and_signatures_are_those_of_the_reference() -> None:
    """Ed25519 is deterministic: our signature of the published text is the published one."""
    key = signing_key(GO_SIGNER)
    assert str(key.verifier) == str(verifier_key(GO_VERIFIER)) == GO_VERIFIER
    assert key.text == GO_SIGNER
    assert key.sign(GO_TEXT) == GO_LINE


def test_a_checkpoint_reads_as_c2sp_says() -> None:
    """Origin, size and root, and a signature by the origin's key."""
    assert NOTE.startswith(
        "cellbook/us-east\n7\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n\n\u2014 cellbook/us-east "
    )
    assert checkpoint_in(NOTE, [KEYS.log.verifier]) == ("cellbook/us-east", 7, ROOT, (), 0)


def test_one_of_several_keys_is_enough() -> None:
    """After a key change both keys are valid for a while: the old one for old checkpoints, the new one for new ones."""
    both = f"{NOTE}{OTHERS.log.sign(BODY)}"
    for keys in ([KEYS.log.verifier, OTHERS.log.verifier], [OTHERS.log.verifier], [KEYS.log.verifier]):
        assert checkpoint_in(both, keys).size == 7
    assert checkpoint_in(NOTE, [OTHERS.log.verifier, KEYS.log.verifier]).size == 7


def test_a_cosignature_says_when_it_was_seen() -> None:
    """Besides the log's own signature, which it cannot replace."""
    other = new_keys("eu-west", os.urandom).witness
    cosigned = f"{NOTE}{other.cosign(BODY, 1_772_600_767)}"
    witness = other.verifier
    found = checkpoint_in(cosigned, [KEYS.log.verifier, witness])
    assert found.cosigned == (("cellbook/eu-west/witness", 1_772_600_767),)
    assert checkpoint_in(cosigned, [KEYS.log.verifier]).cosigned == ()
    with pytest.raises(Malformed, match="signed by"):
        checkpoint_in(cosigned, [witness])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (NOTE.replace("\n7\n", "\n8\n", 1), "signature of cellbook/us-east is wrong"),
        (NOTE.replace("AAEC", "AAED", 1), "signature of cellbook/us-east is wrong"),
        (NOTE.replace("us-east\n7", "eu-west\n7", 1), "signature of cellbook/us-east is wrong"),
        (NOTE.replace("\n7\n", "\n07\n", 1), "an origin, a size and a root"),
        (NOTE.replace("\n7\n", "\n-7\n", 1), "an origin, a size and a root"),
        (NOTE.replace("AAEC", "AA*C", 1), "not base64"),
        (NOTE.replace("AAECAwQ", "", 1), "base64|32 bytes"),
        (f"{BODY}\n{OTHERS.log.sign(BODY)}", "the keys given are"),
        (f"{BODY}\n{KEYS.witness.cosign(BODY, 1)}", "the keys given are"),
        (BODY, "no signed note"),
        (f"{BODY}\n", "no signed note"),
        (f"{BODY}\nrubbish\n", "no signature of a note"),
        (NOTE.rstrip("\n"), "no signed note"),
        (NOTE.replace("\n", "\r\n"), "no signed note"),
        ("", "no signed note"),
    ],
)
def test_what_was_not_signed_is_refused(changed: str, message: str) -> None:
    """A checkpoint that was changed, signed by another key, or not signed; each with its problem."""
    with pytest.raises(Malformed, match=message):
        checkpoint_in(changed, [KEYS.log.verifier])


def test_a_cosignature_of_another_time_is_refused() -> None:
    """The signature covers the time, too."""
    line = OTHERS.witness.cosign(BODY, 1_772_600_767)
    content = unbase64(line.split()[2], "it")
    moved = content[:11] + bytes((content[11] ^ 1,)) + content[12:]
    forged = line.replace(line.split()[2], base64.b64encode(moved).decode())
    with pytest.raises(Malformed, match="witness is wrong"):
        checkpoint_in(NOTE + forged, [KEYS.log.verifier, OTHERS.witness.verifier])


@pytest.mark.parametrize(
    "text",
    ["", "x", "a+b+c", GO_VERIFIER[:-4], GO_VERIFIER.replace("c74f", "c74e"), GO_VERIFIER.replace("Peter", "peter")],
)
def test_what_is_no_key_is_refused(text: str) -> None:
    """A mistyped key would refuse everything, without saying why."""
    with pytest.raises(Malformed):
        verifier_key(text)


def test_the_key_file_is_made_once_and_private(tmp_path: Path) -> None:
    """A second start uses the existing keys; no other user of the machine may read them."""
    path = tmp_path / "checkpoint.key"
    keys = signing_keys(path, "us-east", make=True)
    assert signing_keys(path, "us-east", make=True) == keys == cell_keys_in(path.read_text(), "us-east")
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["checkpoint.key"]


@pytest.mark.parametrize(
    "content",
    ["", "rubbish", KEYS.log.text, new_keys("eu-west", os.urandom).text],
    ids=["empty", "rubbish", "one key", "another cell"],
)
def test_a_key_file_that_is_not_this_cells_is_refused(tmp_path: Path, content: str) -> None:
    """It neither signs under another name, nor silently makes new keys."""
    path = tmp_path / "checkpoint.key"
    path.write_text(content)
    with pytest.raises(CannotServe, match="checkpoint_key_file"):
        signing_keys(path, "us-east", make=True)
    with pytest.raises(CannotServe, match="cannot read"):
        signing_keys(tmp_path / "none", "us-east", make=False)


# --- the required signatures besides the log's: as a number, or as a policy in the file of keys -----------------------


CELLS = {name: new_keys(name, bytes) for name in ("eu-west", "ap-tokyo", "us-east", "bank")}
LOG = CELLS["eu-west"].log.verifier
OWN, TOKYO, US, BANK = (CELLS[name].witness.verifier for name in CELLS)

POLICY = f"""
# Of the marketplace's own cells one, and the bank in any case.
log {LOG}
witness tokyo {TOKYO}
witness us {US}
witness bank {BANK} https://bank.example
group own any tokyo us
group enough all own bank
quorum enough
"""


@pytest.mark.parametrize(
    ("signed", "met"),
    [
        ((), False),
        ((BANK,), False),
        ((TOKYO, US), False),
        ((US, BANK), True),
        ((TOKYO, US, BANK), True),
    ],
)
def test_a_policy_says_who_counts(signed: tuple[object, ...], met: bool) -> None:  # noqa: FBT001 - a parameter
    """Groups within groups, by threshold."""
    policy = policy_in(POLICY)
    assert policy.keys == (LOG, TOKYO, US, BANK)
    assert policy.quorum is not None
    assert policy.quorum.met([each.name for each in (TOKYO, US, BANK) if each in signed]) is met
    assert str(policy.quorum) == f"2 of (1 of {TOKYO.name}, {US.name}), {BANK.name}"


def test_a_plain_list_of_keys_says_nothing_of_witnesses() -> None:
    """A number does; a number above that of the keys is a mistake of the caller."""
    policy = policy_in(f"{LOG}\n\n# a witness\n{TOKYO}\n{US}\n")
    assert policy == Policy((LOG, TOKYO, US), None)
    assert any_of(2, policy.keys) == Quorum(2, (TOKYO.name, US.name))
    assert any_of(0, policy.keys).met([])
    with pytest.raises(Malformed, match="3 witnesses are required, and the keys given are of 2"):
        any_of(3, policy.keys)


@pytest.mark.parametrize(
    ("witnesses", "options", "code"),
    [
        (("eu-west",), ("--require-witnesses", "1"), BAD),
        (("eu-west", "us-east"), ("--require-witnesses", "2"), BAD),
        (("eu-west", "us-east"), ("--require-witnesses", "1"), GOOD),
        (("ap-tokyo", "us-east"), ("--require-witnesses", "2"), GOOD),
        (("eu-west",), ("--key", f"witness own {OWN}\nquorum own"), BAD),
        (("eu-west",), ("--key", f"witness own {OWN}\nwitness us {US}\ngroup any any own us\nquorum any"), BAD),
    ],
)
def test_no_log_is_its_own_witness(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], witnesses: tuple[str, ...], options: tuple[str, str], code: int
) -> None:
    """A cell's witness key lies beside its log key: one thief, or one operator, has both."""
    body = f"cellbook/eu-west\n5\n{base64.b64encode(bytes(32)).decode()}\n"
    lines = [CELLS["eu-west"].log.sign(body), *(CELLS[name].witness.cosign(body, 1) for name in witnesses)]
    note, keys, policy = (tmp_path / name for name in ("note", "keys", "policy"))
    note.write_text(body + "\n" + "".join(lines))
    keys.write_text("\n".join(map(str, (LOG, OWN, TOKYO, US))))
    policy.write_text(options[1])
    asked = ("--key", str(policy)) if options[0] == "--key" else options
    assert main(["--key", str(keys), *asked, str(note)], program="verify") == code
    assert "eu-west/witness" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (f"log {LOG}", "needs a line `quorum"),
        (f"witness a {TOKYO}\nquorum b", "'b' is no witness or group"),
        (f"witness a {TOKYO}\nwitness a {US}\nquorum a", "'a' is named twice"),
        (f"witness a {TOKYO}\ngroup g 2 a\nquorum g", "a threshold of any, all or 1 to"),
        (f"witness a {TOKYO}\ngroup g 0 a\nquorum g", "a threshold of any, all or 1 to"),
        (f"witness a {TOKYO}\ngroup g 2 a a\nquorum g", "a threshold of any, all or 1 to"),
        ("group g any g\nquorum g", "'g' is no witness or group of a line before"),
        (f"witness a {TOKYO}\nquorum a\nquorum a", "no line of a policy"),
        (f"witness none {TOKYO}\nquorum none", "'none' is named twice"),
        ("log x\nquorum none", "is no verifier key"),
    ],
)
def test_a_policy_that_means_nothing_is_refused(text: str, problem: str) -> None:
    """The line is named, and no default replaces it."""
    with pytest.raises(Malformed, match=problem):
        policy_in(text)


def test_a_policy_may_ask_for_nobody() -> None:
    """It must be stated, not left out."""
    quorum = policy_in(f"log {LOG}\nquorum none").quorum
    assert quorum is not None
    assert quorum.met([])
