// How the result of a check is shown, where the key came from, and how a proof is got from the console.

import { Unable, Wrong } from "./proof.js";

export const KEY_SOURCES = {
  set: "The key is the one in this console's setting log_keys.",
  remembered: "The key is the one that this browser has seen before. It came from the cell then.",
  first: "This browser has seen the key for the first time, and it came from the cell itself: compare it with the key "
    + "that you have from another source. From now on this browser remembers it.",
};

export const keysIn = (text) => text.split(" ").filter(Boolean);

// The proof at an address of the console; throws Wrong if the cell admits that its log is not what it was.
export async function load(address) {
  const response = await fetch(address, { headers: { accept: "application/json" } });
  if (!response.headers.get("content-type")?.startsWith("application/json")) {
    throw new Unable(response.redirected ? "the session has ended: sign in again" : "the console has no proof");
  }
  const answer = await response.json();
  if (answer.tampered) throw new Wrong(answer.problem);
  if (answer.problem) throw new Unable(answer.problem);
  return answer;
}

export function decide(verdict, state, text) {
  verdict.className = `verdict ${state}`;
  verdict.textContent = text;
}

// Anything but Unable is wrong, also an error that nobody has thought of.
export function fail(verdict, error) {
  const [state, word] = error instanceof Unable ? ["unknown", "Not verified"] : ["bad", "WRONG"];
  decide(verdict, state, `${word}: ${error.message}.`);
}
