// The largest checkpoint of each log that this browser has seen: one of a log that was written anew does not extend it.

import { checkExtension, fromBase64, timeText } from "./proof.js";
import { load } from "./verdict.js";

const slot = (origin) => `cellbook checkpoint ${origin}`;

export const forgetSeen = (origin, storage) => storage.removeItem(slot(origin));

// Has it proved that one of the two extends the other, and keeps the larger one. `told`: what follows; `larger`: the
// number of events of the one seen before, if it covers more.
export async function compare(cell, checkpoint, storage) {
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
  const told = seen
    ? `The log is the one of ${seen.size} events that this browser saw on ${timeText(seen.seenMs)}, and nothing of it has changed.`
    : "This browser keeps the checkpoint, and compares later ones with it.";
  return { told, larger: seen && seen.size > now.size ? seen.size : 0 };
}
