"""The required signatures besides the log's: as a number, or as a policy in the file of keys."""

import base64
from pathlib import Path

import pytest

from cells.audit.proofs.keys import new_keys
from cells.audit.verify.command import BAD, GOOD, main
from cells.audit.verify.note import Malformed, Policy, Quorum, any_of, policy_in

KEYS = {name: new_keys(name, bytes) for name in ("eu-west", "ap-tokyo", "us-east", "bank")}
LOG = KEYS["eu-west"].log.verifier
OWN, TOKYO, US, BANK = (KEYS[name].witness.verifier for name in KEYS)

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
    lines = [KEYS["eu-west"].log.sign(body), *(KEYS[name].witness.cosign(body, 1) for name in witnesses)]
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
