// The checkpoints on the page, checked by proof.js: their signatures, and that each extends the one seen before.

import { Unable, checkpointIn, parseKey, remember, timeText, trustedKey, witnessesOf } from "./proof.js";
import { compare } from "./seen.js";
import { KEY_SOURCES, decide, fail, keysIn } from "./verdict.js";

const sections = [...document.querySelectorAll(".checkpoint")];

// The keys that a cell names for itself: none for a witness elsewhere.
const ownKeys = ({ cell, keys }) => keysIn(keys).filter((key) => key.startsWith(`cellbook/${cell}/`));

async function check(section, verdict) {
  const { cell, keys, logKeys } = section.dataset;
  // A witness is believed to have the key that its own cell names, if the setting names none.
  const others = sections.filter((each) => each !== section).flatMap((each) => ownKeys(each.dataset));
  const configured = keysIn(logKeys);
  const { key, source } = await trustedKey(`cellbook/${cell}`, configured, keysIn(keys), localStorage);
  const checkpoint = await checkpointIn(section.querySelector(".note").textContent, key);
  const witnesses = await witnessesOf(
    checkpoint, await Promise.all([...new Set([...configured, ...others])].map(parseKey)),
  );
  const { told, larger } = await compare(cell, checkpoint, localStorage);
  if (larger) {
    throw new Unable(`${told} But that one covers ${larger - checkpoint.size} events more: load this page again, and if `
      + "it stays so, the last events of the log were taken away");
  }
  if (source === "first") remember(key, localStorage);
  const seen = witnesses.map((each) => `${each.name} at ${timeText(each.timeMs)}`).join(", ");
  decide(verdict, "good", `Signature verified by this browser. ${KEY_SOURCES[source]} ${told} ${
    seen ? `Witnesses have signed it: ${seen}.` : "No witness has signed it whose key is known here."}`);
}

for (const section of sections) {
  const verdict = section.querySelector(".verdict");
  check(section, verdict).catch((error) => fail(verdict, error));
}
