"""Proofs that the browser checks: true ones are green, and whatever a server forges is red."""

import base64
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from cellbook.v1 import audit_pb2, event_pb2
from cells.audit.proofs.keys import SigningKey, checkpoint_body
from cells.audit.verify.note import LOG_KEY, WITNESS_KEY, origin_of
from cells.audit.verify.tree import Tree, leaf_hash, tree_root
from lab.market import Market
from server.cli.client import BANK
from tests.console.auditor_rig import AUDITOR, CELL, Books, signed
from tests.console.forgeries import (
    admitted,
    flipped,
    other_amount,
    other_event,
    other_path,
    other_signature,
    other_size,
    shorter_path,
    spaced,
)
from tests.console.rig import Rig, Visit
from tests.integration.database import ask

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def browser(rig: Rig) -> Iterator[Visit]:
    """One for all tests that leave nothing behind in it."""
    with rig.visitor(AUDITOR) as visit:
        yield visit


@pytest.fixture
def visit(browser: Visit) -> Iterator[Visit]:
    yield browser
    browser.page.unroute_all()


def opened(visit: Visit, books: Books) -> Page:
    return visit.open(f"/auditor/events/{books.deposit.event_id}")


def says(page: Page, state: str, text: str) -> None:
    verdict = page.locator("#verdict")
    expect(verdict).to_have_class(f"verdict {state}")
    expect(verdict).to_contain_text(text)


def forge(visit: Visit, change: Callable[[dict[str, Any]], None]) -> None:
    """The console answers with another proof from now on."""

    def answer(route: Route) -> None:
        proof = json.loads(route.fetch().text())
        change(proof)
        route.fulfill(json=proof)

    visit.page.route("**/auditor/proofs/**", answer)


def test_a_proof_is_checked_in_the_browser(visit: Visit, books: Books) -> None:
    """Green, with the key of the first time, which the browser then remembers."""
    page = opened(visit, books)
    says(page, "good", "for the first time")
    expect(page.locator("#proof-steps li")).to_have_count(6)
    visit.check("auditor-event")
    page.reload()
    says(page, "good", "has seen before")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (other_amount, "does not lead to the root"),
        (other_path, "does not lead to the root"),
        (shorter_path, "too short for the tree"),
        (other_signature, "the signature of the checkpoint is not that of key"),
        (other_size, "the signature of the checkpoint is not that of key"),
        (other_event, "the cell has proved event"),
        (spaced, "not in canonical form"),
        (admitted, "not what the checkpoint was made over"),
    ],
)
def test_a_forged_proof_is_red(
    visit: Visit, books: Books, change: Callable[[dict[str, Any]], None], reason: str
) -> None:
    """Whatever the server changes, the browser says what does not hold."""
    forge(visit, change)
    says(opened(visit, books), "bad", reason)


@pytest.mark.parametrize(
    ("true", "false", "reason"),
    [
        ("+123.45 USD", "+999.99 USD", "the page shows payload.postings."),
        ("STATEMENT 7", "STATEMENT 8", "the page shows payload as"),
        ("service/market", "service/bank", "the page shows"),
        ('data-leaf="user_id"', "", "have user_id, which the page does not show"),
    ],
)
def test_a_page_that_shows_something_else_than_was_signed_is_red(
    visit: Visit, books: Books, true: str, false: str, reason: str
) -> None:
    """The proof is true, and the page is not."""
    true = BANK if true == "service/market" else true

    def answer(route: Route) -> None:
        body = route.fetch().text()
        assert true in body
        route.fulfill(body=body.replace(true, false), content_type="text/html")

    visit.page.route("**/auditor/events/**", answer)
    says(opened(visit, books), "bad", reason)


@contextmanager
def changed_row(rig: Rig, event: event_pb2.Event) -> Iterator[None]:
    """The deposit says another amount in the cell's database, as a superuser can write it; then the true one again."""

    async def write(amounts: tuple[str, str]) -> None:
        dsn = await next(member for member in rig.cluster.members if member.name == event.cell).dsn()
        for query, arguments in (
            ("ALTER TABLE event_store DISABLE TRIGGER append_only", ()),
            (
                "UPDATE event_store SET payload = replace(payload::text, $2, $3)::jsonb WHERE position = $1",
                (event.position, *amounts),
            ),
            ("ALTER TABLE event_store ENABLE ALWAYS TRIGGER append_only", ()),
        ):
            await ask(dsn, query, *arguments)

    rig.played(lambda _: write(('"12345"', '"12344"')))
    try:
        yield
    finally:
        rig.played(lambda _: write(('"12344"', '"12345"')))


def test_a_row_that_was_changed_in_the_database_is_red(rig: Rig, visit: Visit, books: Books) -> None:
    """On its page and in a trace; the cell gives no proof of it."""
    with changed_row(rig, books.deposit):
        page = opened(visit, books)
        says(page, "bad", "is not what the checkpoint of size")
        expect(page.locator(".problem")).to_contain_text("WRONG: its bytes do not give its leaf hash")
        page = visit.open(f"/auditor/trace?subject={books.deposit.event_id}")
        expect(page.locator("a.box.wrong")).to_contain_text("WRONG")
        expect(page.locator("tr.wrong strong")).to_contain_text("WRONG: its bytes do not give its leaf hash")
    says(opened(visit, books), "good", "Verified")


def test_a_log_that_was_made_anew_with_another_key_is_red(rig: Rig, books: Books) -> None:
    """Its proof holds in itself; the browser remembers the key of before, until it is told to forget it."""
    with rig.visitor(AUDITOR) as visit:
        made_anew(visit, books)


def made_anew(visit: Visit, books: Books) -> None:
    says(opened(visit, books), "good", "Verified")
    key = key_of(origin_of(CELL))

    def other_log(proof: dict[str, Any]) -> None:
        other_amount(proof)
        tree = Tree()
        for position in range(1, books.deposit.position):
            tree.append(sha256(str(position).encode()).digest())
        proof["path"] = [base64.b64encode(peak).decode() for peak in reversed(tree.peaks)]
        tree.append(leaf_hash(base64.b64decode(proof["event_json"])))
        proof["checkpoint"] = key.note(checkpoint_body(key.name, tree.size, tree.root(), 1))
        proof["keys"] = [str(key.verifier)]

    forge(visit, other_log)
    page = opened(visit, books)
    says(page, "bad", f"the key of {key.name} has changed")
    page.get_by_role("button", name="Forget the remembered key").click()
    # The proof holds then, and the page shows the true amount.
    says(page, "bad", "the page shows")


def remembered(page: Page, size: int, root: str) -> None:
    """As the browser remembers a checkpoint of the cell that it has seen."""
    seen = json.dumps({"size": size, "root": root, "seenMs": 1_700_000_000_000})
    slot = f"cellbook checkpoint {origin_of(CELL)}"
    page.evaluate("([slot, seen]) => localStorage.setItem(slot, seen)", [slot, seen])


def test_a_checkpoint_extends_the_one_that_the_browser_has_seen(rig: Rig, books: Books) -> None:
    """It is kept at the first look; an earlier one is a part of it, and one of another log is not."""

    async def two(market: Market) -> list[list[str]]:
        """The first two, as lines."""
        cell = market.cells[CELL]
        await signed(cell)
        await market.person("somebody else", CELL, 1)
        await signed(cell)
        first = await cell.ask(cell.audit.GetCheckpoint, audit_pb2.GetCheckpointRequest(after_size=1))
        wanted = audit_pb2.GetCheckpointRequest(after_size=first.size)
        return [each.checkpoint.split("\n") for each in (first, await cell.ask(cell.audit.GetCheckpoint, wanted))]

    def seen(size: int, root: str) -> None:
        remembered(page, size, root)
        page.reload()

    async def one(market: Market) -> str:
        cell = market.cells[CELL]
        return (await cell.ask(cell.audit.GetCheckpoint, audit_pb2.GetCheckpointRequest(size=int(first)))).checkpoint

    def shows(body: str, note: str) -> str:
        own = body.index(f'data-cell="{CELL}"')
        begin = body.index('class="note">', own) + len('class="note">')
        return body[:begin] + note + body[body.index("</pre>", begin) :]

    [[_, first, root, *_], [_, second, other_root, *_]] = rig.played(two)
    assert int(first) < int(second)
    with rig.visitor(AUDITOR) as visit:
        page = visit.open("/auditor/checkpoints")
        verdict = page.locator(f".checkpoint[data-cell={CELL}] .verdict")
        expect(verdict).to_contain_text("This browser keeps the checkpoint")
        page.reload()
        expect(verdict).to_contain_text("nothing of it has changed")
        # The page shows one of them, or a later one.
        for size, its_root in ((first, root), (second, other_root)):
            seen(int(size), its_root)
            expect(verdict).to_contain_text(f"the one of {size} events that this browser saw on 2023-11-14")
            seen(int(size), flipped(its_root))
            expect(verdict).to_contain_text("does not extend the one over")
        seen(10**9, root)
        expect(verdict).to_have_class("verdict bad")
        # The log as it was before its last events: a part of it, and not all that was seen.
        older = rig.played(one)
        seen(int(second), other_root)
        page.route("**/auditor/checkpoints", lambda route: route.fulfill(body=shows(route.fetch().text(), older)))
        page.reload()
        expect(verdict).to_have_class("verdict unknown")
        expect(verdict).to_contain_text("the last events of the log were taken away")
        page.unroute_all()
        # A log that was written anew, with the key of the old one.
        page = opened(visit, books)
        says(page, "good", "Verified")
        seen(int(first), flipped(root))
        says(page, "bad", "does not extend the one over")


def test_a_cell_names_no_witness_but_its_own(visit: Visit, books: Books) -> None:
    """Neither one of another name, nor with a signature that another cell's key would make."""
    stranger = key_of("bank.example", WITNESS_KEY)

    def answer(route: Route) -> None:
        head, cell, others = route.fetch().text().partition(f'data-cell="{CELL}"')
        before, pre, rest = others.partition('class="note">')
        note, end, after = rest.partition("</pre>")
        note += stranger.cosign(note[: note.rindex("\n\n") + 1], 1_700_000_000)
        named = f'data-keys="{stranger.verifier} '
        body = (
            head.replace('data-keys="', named) + cell + before + pre + note + end + after.replace('data-keys="', named)
        )
        route.fulfill(body=body, content_type="text/html")

    visit.page.route("**/auditor/checkpoints", answer)
    verdict = visit.open("/auditor/checkpoints").locator(f".checkpoint[data-cell={CELL}] .verdict")
    expect(verdict).to_contain_text("Signature verified")
    expect(verdict).not_to_contain_text("bank.example")


# --- the script by itself ---------------------------------------------------------------------------------------------


def key_of(name: str, kind: int = LOG_KEY) -> SigningKey:
    return SigningKey(name=name, kind=kind, seed=os.urandom(32))


def run(visit: Visit, script: str, *arguments: object) -> Any:  # noqa: ANN401 - as the script says
    """What a function of proof.js comes to; the reason, if it finds something wrong."""
    visit.open("/auditor")
    return visit.page.evaluate(
        f"""async (given) => {{
            const proof = await import("/static/proof.js");
            try {{ return await ({script})(proof, ...given); }} catch (error) {{ return error.message; }}
        }}""",
        list(arguments),
    )


def test_the_key_of_the_setting_decides(visit: Visit) -> None:
    """Neither the key that the cell names nor the one that the browser remembers counts against it."""
    mine, other = (key_of(origin_of("mars")).verifier for _ in range(2))
    script = """async ({ trustedKey, remember, parseKey }, origin, set, named) => {
        const memory = new Map();
        const storage = { getItem: (slot) => memory.get(slot) ?? null, setItem: memory.set.bind(memory) };
        remember(await parseKey(named), storage);
        const { key, source } = await trustedKey(origin, set, [named], storage);
        return [key.text, source];
    }"""
    assert run(visit, script, mine.name, [str(mine)], str(other)) == [str(mine), "set"]
    assert run(visit, script, mine.name, [], str(other)) == [str(other), "remembered"]
    assert "has several keys" in run(visit, script, mine.name, [str(mine), str(other)], str(other))
    wrong_id = str(mine).replace(mine.id.hex(), "00000000")
    assert "is no public key" in run(visit, script, mine.name, [wrong_id], str(other))


def test_witnesses_whose_keys_are_set_are_checked(visit: Visit) -> None:
    """A wrong signature of one of them is red; those of others, and of the log's own witness, count for nothing."""
    log, witness = key_of(origin_of("mars")), key_of("witness.bank.example", WITNESS_KEY)
    own, stranger = key_of(f"{log.name}/witness", WITNESS_KEY), key_of("stranger", WITNESS_KEY)
    body = checkpoint_body(log.name, 7, sha256(b"").digest(), 3)
    script = """async ({ checkpointIn, parseKey, witnessesOf }, note, log, keys) =>
        witnessesOf(await checkpointIn(note, await parseKey(log)), await Promise.all(keys.map(parseKey)))"""
    keys = [str(each.verifier) for each in (log, witness, own)]
    good = log.note(body) + "".join(each.cosign(body, 1_700_000_000) for each in (witness, own, stranger))
    found = [{"name": witness.name, "timeMs": 1_700_000_000_000}]
    assert run(visit, script, good, keys[0], keys) == found
    bad = log.note(body) + witness.cosign(body.replace("7", "8"), 1_700_000_000)
    assert run(visit, script, bad, keys[0], keys) == f"the signature of witness {witness.name} is wrong"
    assert "is not signed by key" in run(visit, script, good, str(key_of(log.name).verifier), keys)
    assert "the key is not that log's" in run(visit, script, good, keys[1], keys)


def test_a_path_is_followed_as_in_the_standard(visit: Visit) -> None:
    """The last leaf of every tree of up to 20 leaves; and no leaf beyond the tree."""
    script = """async ({ fromBase64, hex, rootOf }, leaves) => {
        const root = ([leaf, index, size, path]) =>
            rootOf(fromBase64(leaf), index, size, path.map(fromBase64)).then(hex, (error) => error.message);
        return Promise.all(leaves.map(root));
    }"""
    tree, leaves, roots = Tree(), list[tuple[str, int, int, list[str]]](), list[str]()
    for size in range(1, 21):
        leaf = sha256(str(size).encode()).digest()
        path = [base64.b64encode(peak).decode() for peak in reversed(tree.peaks)]
        tree.append(leaf)
        leaves += [(base64.b64encode(leaf).decode(), index, size, path) for index in (size - 1, size)]
        roots += [tree.root().hex(), f"the checkpoint covers {size} events, and not this one"]
    assert run(visit, script, leaves) == roots


def test_one_tree_extends_another_or_does_not(visit: Visit) -> None:
    """Every pair of trees of up to 12 leaves; another root or path, or the other direction, is refused."""
    script = """async ({ checkExtension, fromBase64 }, pairs) => {
        const tree = ([size, root]) => ({ size, root: fromBase64(root) });
        const found = ([older, newer, path]) => checkExtension(tree(older), tree(newer), path.map(fromBase64))
            .then(() => "", (error) => error.message);
        return Promise.all(pairs.map(found));
    }"""
    leaves = [sha256(str(each).encode()).digest() for each in range(12)]
    whole = {size: (size, text_of(tree_root(leaves[:size]))) for size in range(1, 13)}
    pairs = [(old, new) for new in whole for old in range(1, new + 1)]
    good = [(whole[old], whole[new], [*map(text_of, extension(leaves[:new], old))]) for old, new in pairs]
    assert set(run(visit, script, good)) == {""}
    bad = [((old[0], flipped(old[1])), new, path) for old, new, path in good]
    bad += [(old, (new[0], flipped(new[1])), path) for old, new, path in good]
    bad += [(old, new, [*path[:-1], flipped(path[-1])]) for old, new, path in good if path]
    bad += [(old, new, path[:-1]) for old, new, path in good if path]
    bad += [(old, new, [*path, old[1]]) for old, new, path in good]
    bad += [(new, old, path) for old, new, path in good if old != new]
    answers = run(visit, script, bad)
    assert all("does not extend" in answer for answer in answers), [
        each for each, answer in zip(bad, answers, strict=True) if not answer
    ]


def text_of(content: bytes) -> str:
    return base64.b64encode(content).decode()


def extension(leaves: Sequence[bytes], old: int, *, is_whole: bool = True) -> list[bytes]:
    """RFC 9162, section 2.1.4.1, as it is written."""
    if old == len(leaves):
        return [] if is_whole else [tree_root(leaves)]
    split = 1 << (len(leaves) - 1).bit_length() - 1
    if old <= split:
        return [*extension(leaves[:split], old, is_whole=is_whole), tree_root(leaves[split:])]
    return [*extension(leaves[split:], old - split, is_whole=False), tree_root(leaves[:split])]


def test_a_browser_that_cannot_check_says_so(rig: Rig, books: Books) -> None:
    """Without Ed25519, or without WebCrypto, nothing is green; nor while the event is not signed yet."""
    with rig.visitor(AUDITOR) as visit:
        visit.page.add_init_script(
            "SubtleCrypto.prototype.importKey = async () => { throw new DOMException('no', 'NotSupportedError') }"
        )
        says(opened(visit, books), "unknown", "cannot check Ed25519")
        visit.page.add_init_script("Object.defineProperty(crypto, 'subtle', { value: undefined })")
        says(opened(visit, books), "unknown", "WebCrypto")
        forge(visit, lambda proof: proof.update(problem="not signed yet"))
        says(opened(visit, books), "unknown", "not signed yet")
