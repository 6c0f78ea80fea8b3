// The signatures of the checkpoints on the page, checked by proof.js.

import { checkpointIn, parseKey, remember, timeText, trustedKey, witnessesOf } from "./proof.js";
import { KEY_SOURCES, decide, fail, keysIn } from "./verdict.js";

async function check(section, verdict) {
  const { cell, keys, logKeys } = section.dataset;
  const configured = keysIn(logKeys);
  const { key, source } = await trustedKey(`cellbook/${cell}`, configured, keysIn(keys), localStorage);
  const checkpoint = await checkpointIn(section.querySelector(".note").textContent, key);
  const witnesses = await witnessesOf(checkpoint, await Promise.all(configured.map(parseKey)));
  if (source === "first") remember(key, localStorage);
  const seen = witnesses.map((each) => `${each.name} at ${timeText(each.timeMs)}`).join(", ");
  decide(verdict, "good", `Signature verified by this browser. ${KEY_SOURCES[source]} ${
    seen ? `Witnesses whose keys are set: ${seen}.` : "No witness was checked: log_keys has no key of one that signed."}`);
}

for (const section of document.querySelectorAll(".checkpoint")) {
  const verdict = section.querySelector(".verdict");
  check(section, verdict).catch((error) => fail(verdict, error));
}
