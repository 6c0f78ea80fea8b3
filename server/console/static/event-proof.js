// The proof on an event's page: gets it from the console, has it checked by proof.js, and says what came of it.

import { ChangedKey, forget, remember, verifyEvent } from "./proof.js";
import { compare, forgetSeen } from "./seen.js";
import { KEY_SOURCES, decide, fail, keysIn, load } from "./verdict.js";

const verdict = document.getElementById("verdict");
const steps = document.getElementById("proof-steps");
const { proof: address, cell, position, logKeys } = document.getElementById("event").dataset;

function tell(text) {
  const item = document.createElement("li");
  item.textContent = text;
  steps.append(item);
}

async function check() {
  const asked = { cell, position: Number(position) };
  const shown = document.getElementById("content");
  const { key, source, checkpoint } = await verifyEvent(
    { shown, asked, proof: await load(address), configured: keysIn(logKeys), storage: localStorage, tell },
  );
  tell((await compare(cell, checkpoint, localStorage)).told);
  if (source === "first") remember(key, localStorage);
  tell(`Key: ${key.text}`);
  decide(verdict, "good", `Verified by this browser: the event is in the signed log as this page shows it. ${KEY_SOURCES[source]}`);
}

check().catch((error) => {
  fail(verdict, error);
  if (!(error instanceof ChangedKey)) return;
  const button = document.getElementById("forget-key");
  button.hidden = false;
  button.addEventListener("click", () => {
    forget(`cellbook/${cell}`, localStorage);
    forgetSeen(`cellbook/${cell}`, localStorage);
    location.reload();
  });
});
