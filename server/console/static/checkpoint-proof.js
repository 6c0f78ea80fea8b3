// The checkpoints on the page, checked by proof.js: their signatures, and that each extends the one seen before.

import {
  checkExtension, checkpointIn, fromBase64, parseKey, remember, timeText, trustedKey, witnessesOf,
} from "./proof.js";
import { KEY_SOURCES, decide, fail, keysIn, load } from "./verdict.js";

const slot = (origin) => `cellbook checkpoint ${origin}`;

// Compares with the largest checkpoint that this browser has seen of the log, and keeps the larger one.
async function compare(cell, checkpoint, storage) {
  const now = { size: checkpoint.size, root: checkpoint.root };
  const seen = JSON.parse(storage.getItem(slot(checkpoint.origin)) ?? "null");
  if (seen) {
    const before = { size: seen.size, root: fromBase64(seen.root, "the remembered root") };
    const [older, newer] = before.size <= now.size ? [before, now] : [now, before];
    const { path } = older.size === newer.size
      ? { path: [] } : await load(`/auditor/consistency/${cell}/${older.size}/${newer.size}`);
    await checkExtension(older, newer, path.map((each) => fromBase64(each, "the path")));
  }
  if (!seen || seen.size < now.size) {
    const root = btoa(String.fromCharCode(...now.root));
    storage.setItem(slot(checkpoint.origin), JSON.stringify({ size: now.size, root, seenMs: Date.now() }));
  }
  return seen
    ? `The log is the one of ${seen.size} events that this browser saw on ${timeText(seen.seenMs)}, and nothing of it has changed.`
    : "This browser keeps the checkpoint, and compares later ones with it.";
}

const sections = [...document.querySelectorAll(".checkpoint")];

async function check(section, verdict) {
  const { cell, keys, logKeys } = section.dataset;
  // A witness is believed to have the key that its own cell names, if the setting names none.
  const others = sections.filter((each) => each !== section).flatMap((each) => keysIn(each.dataset.keys));
  const configured = keysIn(logKeys);
  const { key, source } = await trustedKey(`cellbook/${cell}`, configured, keysIn(keys), localStorage);
  const checkpoint = await checkpointIn(section.querySelector(".note").textContent, key);
  const witnesses = await witnessesOf(
    checkpoint, await Promise.all([...new Set([...configured, ...others])].map(parseKey)),
  );
  const compared = await compare(cell, checkpoint, localStorage);
  if (source === "first") remember(key, localStorage);
  const seen = witnesses.map((each) => `${each.name} at ${timeText(each.timeMs)}`).join(", ");
  decide(verdict, "good", `Signature verified by this browser. ${KEY_SOURCES[source]} ${compared} ${
    seen ? `Witnesses have signed it: ${seen}.` : "No witness has signed it whose key is known here."}`);
}

for (const section of sections) {
  const verdict = section.querySelector(".verdict");
  check(section, verdict).catch((error) => fail(verdict, error));
}
