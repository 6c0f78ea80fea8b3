// Checks in the browser that an event is in a log that the log's key has signed, as docs/log-format.md describes it.
// A function throws Wrong if something is not as it must be, and Unable if this browser cannot tell.

export class Wrong extends Error {}
export class ChangedKey extends Wrong {}
export class Unable extends Error {}

const LEAF = 0, NODE = 1;
const LOG_KEY = 1, WITNESS_KEY = 4;
const KEY_BYTES = 32, KEY_ID_BYTES = 4, TIME_BYTES = 8;
const PATH_MAX = 128, SIGNATURES_MAX = 64;
const ORIGIN = "cellbook/";
// Currencies that do not have two decimals.
const EXPONENTS = { BHD: 3, CLP: 0, ISK: 0, JOD: 3, JPY: 0, KRW: 0, KWD: 3, OMR: 3, TND: 3, VND: 0 };

const encoder = new TextEncoder();

export function fromBase64(text, what) {
  try {
    return Uint8Array.from(atob(text), (each) => each.charCodeAt(0));
  } catch {
    throw new Wrong(`${what} is not base64`);
  }
}

export const hex = (bytes) => Array.from(bytes, (each) => each.toString(16).padStart(2, "0")).join("");

function joined(...parts) {
  const whole = new Uint8Array(parts.reduce((length, part) => length + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

function subtle() {
  if (!globalThis.crypto?.subtle) {
    throw new Unable("this browser offers WebCrypto only to pages by https or from this machine");
  }
  return crypto.subtle;
}

async function sha256(...parts) {
  return new Uint8Array(await subtle().digest("SHA-256", joined(...parts)));
}

// --- the tree: RFC 9162 ---------------------------------------------------------------------------------------------

export const leafHash = (leaf) => sha256([LEAF], leaf);

// Section 2.1.3.2: the root that a path leads to from the leaf with this index.
export async function rootOf(leaf, index, size, path) {
  if (!(index >= 0 && index < size)) throw new Wrong(`the checkpoint covers ${size} events, and not this one`);
  if (path.length > PATH_MAX) throw new Wrong("the path is longer than that of any tree");
  let [here, last, root] = [BigInt(index), BigInt(size) - 1n, leaf];
  for (const step of path) {
    if (last === 0n) throw new Wrong("the path is too long for the tree");
    if (here & 1n || here === last) {
      root = await sha256([NODE], step, root);
      while (here && !(here & 1n)) [here, last] = [here >> 1n, last >> 1n];
    } else {
      root = await sha256([NODE], root, step);
    }
    [here, last] = [here >> 1n, last >> 1n];
  }
  if (last !== 0n) throw new Wrong("the path is too short for the tree");
  return root;
}

// Section 2.1.4.2: throws unless the tree of `newer` begins with that of `older`; each has a size and a root.
export async function checkExtension(older, newer, path) {
  const wrong = new Wrong(`the checkpoint over ${newer.size} events does not extend the one over ${older.size}`);
  if (older.size === newer.size || older.size === 0) {
    if (path.length || (older.size && hex(older.root) !== hex(newer.root))) throw wrong;
    return;
  }
  let [here, last] = [BigInt(older.size) - 1n, BigInt(newer.size) - 1n];
  const steps = [...(older.size === 2 ** Math.round(Math.log2(older.size)) ? [older.root] : []), ...path];
  if (older.size > newer.size || !steps.length || steps.length > PATH_MAX) throw wrong;
  while (here & 1n) [here, last] = [here >> 1n, last >> 1n];
  let [oldRoot, newRoot] = [steps[0], steps[0]];
  for (const step of steps.slice(1)) {
    if (last === 0n) throw wrong;
    if (here & 1n || here === last) {
      [oldRoot, newRoot] = [await sha256([NODE], step, oldRoot), await sha256([NODE], step, newRoot)];
      while (here && !(here & 1n)) [here, last] = [here >> 1n, last >> 1n];
    } else {
      newRoot = await sha256([NODE], newRoot, step);
    }
    [here, last] = [here >> 1n, last >> 1n];
  }
  if (last !== 0n || hex(oldRoot) !== hex(older.root) || hex(newRoot) !== hex(newer.root)) throw wrong;
}

// --- keys and signed notes ------------------------------------------------------------------------------------------

// A public key, "name+id+key".
export async function parseKey(text) {
  const [, name, id, content] = /^([^+]+)\+([0-9a-f]{8})\+(.+)$/.exec(text) ?? [];
  const raw = fromBase64(content ?? "!", "the public key");
  const computed = hex((await sha256(encoder.encode(`${name}\n`), raw)).slice(0, KEY_ID_BYTES));
  if (raw.length !== 1 + KEY_BYTES || computed !== id) throw new Wrong(`"${text}" is no public key`);
  return { name, id, kind: raw[0], raw: raw.slice(1), text };
}

async function hasSigned(key, text, signature) {
  let imported;
  try {
    imported = await subtle().importKey("raw", key.raw, { name: "Ed25519" }, false, ["verify"]);
  } catch (error) {
    if (error.name === "NotSupportedError") throw new Unable("this browser cannot check Ed25519 signatures");
    throw error;
  }
  return subtle().verify({ name: "Ed25519" }, imported, signature, text);
}

// The signed text of a note, and its signatures by name and key id.
export function parseNote(note) {
  const end = note.lastIndexOf("\n\n");
  const wrong = new Wrong("the checkpoint is no signed note");
  // eslint-disable-next-line no-control-regex
  if (end < 0 || !note.endsWith("\n") || /[\x00-\x09\x0b-\x1f]/.test(note)) throw wrong;
  const lines = note.slice(end + 2, -1).split("\n").slice(0, SIGNATURES_MAX);
  const signatures = lines.map((line) => {
    const [, name, content] = /^\u2014 (\S+) (\S+)$/.exec(line) ?? [];
    const bytes = fromBase64(content ?? "!", "a signature of the checkpoint");
    if (bytes.length <= KEY_ID_BYTES) throw wrong;
    return { name, id: hex(bytes.slice(0, KEY_ID_BYTES)), bytes: bytes.slice(KEY_ID_BYTES) };
  });
  return { body: note.slice(0, end + 1), signatures };
}

// The checkpoint that `key` has signed.
export async function checkpointIn(note, key) {
  const { body, signatures } = parseNote(note);
  const [origin, size, root] = body.split("\n");
  if (!/^(0|[1-9][0-9]{0,15})$/.test(size)) throw new Wrong("the checkpoint has no number of events");
  if (origin !== key.name || key.kind !== LOG_KEY) {
    throw new Wrong(`the checkpoint is of log ${origin}, and the key is not that log's: ${key.name}+${key.id}`);
  }
  const own = signatures.filter((each) => each.name === key.name);
  const ours = own.find((each) => each.id === key.id);
  if (!ours) {
    const others = own.map((each) => each.id).join(", ") || "none";
    throw new Wrong(`the checkpoint is not signed by key ${key.id}; the log's signatures are of: ${others}`);
  }
  if (!(await hasSigned(key, encoder.encode(body), ours.bytes))) {
    throw new Wrong(`the signature of the checkpoint is not that of key ${key.id}`);
  }
  return { origin, size: Number(size), root: fromBase64(root, "the root"), body, signatures };
}

// Those of the given witnesses' keys that have signed the checkpoint, with the time in milliseconds.
export async function witnessesOf(checkpoint, keys) {
  const found = [];
  for (const key of keys.filter((each) => each.kind === WITNESS_KEY && each.name !== `${checkpoint.origin}/witness`)) {
    const signature = checkpoint.signatures.find((each) => each.name === key.name && each.id === key.id);
    if (!signature) continue;
    const seconds = new DataView(joined(signature.bytes, new Uint8Array(TIME_BYTES)).buffer).getBigUint64(0);
    const text = encoder.encode(`cosignature/v1\ntime ${seconds}\n${checkpoint.body}`);
    if (!(await hasSigned(key, text, signature.bytes.slice(TIME_BYTES)))) {
      throw new Wrong(`the signature of witness ${key.name} is wrong`);
    }
    found.push({ name: key.name, timeMs: Number(seconds) * 1000 });
  }
  return found;
}

// --- which key ------------------------------------------------------------------------------------------------------

const slot = (origin) => `cellbook log key ${origin}`;

// The log's key: of the console's setting; otherwise the one that this browser remembers, or sees for the first time.
export async function trustedKey(origin, configured, offered, storage) {
  const ofLog = (each) => each.name === origin && each.kind === LOG_KEY;
  const set = (await Promise.all(configured.map(parseKey))).filter(ofLog);
  if (set.length === 1) return { key: set[0], source: "set" };
  if (set.length > 1) throw new Wrong(`the setting log_keys has several keys of ${origin}`);
  const now = (await Promise.all(offered.map(parseKey))).filter(ofLog);
  if (now.length !== 1) throw new Wrong(`the cell names ${now.length || "no"} keys of ${origin}, and a log has one`);
  const remembered = storage.getItem(slot(origin));
  if (remembered === null) return { key: now[0], source: "first" };
  if (remembered !== now[0].text) {
    const before = await parseKey(remembered);
    throw new ChangedKey(
      `the key of ${origin} has changed: this browser remembers ${before.id}, and the cell names ${now[0].id}`,
    );
  }
  return { key: now[0], source: "remembered" };
}

export const remember = (key, storage) => storage.setItem(slot(key.name), key.text);
export const forget = (origin, storage) => storage.removeItem(slot(origin));

// --- canonical JSON -------------------------------------------------------------------------------------------------

function byCodePoints(one, other) {
  const [ones, others] = [Array.from(one), Array.from(other)];
  const at = ones.findIndex((each, place) => each !== others[place]);
  if (at < 0) return ones.length - others.length;
  return at < others.length ? ones[at].codePointAt(0) - others[at].codePointAt(0) : 1;
}

// With `indent` as json.dumps of Python writes it for people.
export function canonical(value, indent = "", margin = "\n") {
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  const inner = margin + indent;
  const [open, close, parts] = Array.isArray(value)
    ? ["[", "]", value.map((each) => canonical(each, indent, inner))]
    : ["{", "}", Object.keys(value).sort(byCodePoints).map((name) =>
        `${JSON.stringify(name)}:${indent && " "}${canonical(value[name], indent, inner)}`)];
  if (!parts.length) return open + close;
  return indent ? open + inner + parts.join(`,${inner}`) + margin + close : open + parts.join(",") + close;
}

// The object whose canonical form these bytes are: no name is there twice, and no number is too large to be read.
export function parseLeaf(bytes) {
  let text, leaf;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    leaf = JSON.parse(text);
  } catch {
    throw new Wrong("the signed bytes are no JSON");
  }
  if (canonical(leaf) !== text) throw new Wrong("the signed bytes are not in canonical form");
  return leaf;
}

// --- what the page shows --------------------------------------------------------------------------------------------

export const timeText = (ms) => new Date(ms).toISOString().replace("T", " ").replace("Z", " UTC");

function microsecondsText(us) {
  const rest = ((us % 1000) + 1000) % 1000;
  return timeText((us - rest) / 1000).replace(" UTC", `${String(rest).padStart(3, "0")} UTC`);
}

export function amountText({ amount_minor, currency }) {
  const [sign, digits] = amount_minor.startsWith("-") ? ["-", amount_minor.slice(1)] : ["+", amount_minor];
  const exponent = EXPONENTS[currency] ?? 2;
  const padded = digits.padStart(exponent + 1, "0");
  const units = padded.slice(0, padded.length - exponent).replace(/\B(?=(\d{3})+$)/g, ",");
  return `${sign}${units}${exponent ? `.${padded.slice(-exponent)}` : ""} ${currency}`;
}

// How the page writes a value of the leaf: data-as.
const FORMS = {
  text: (value) => (value === null ? "none" : String(value)),
  json: (value) => canonical(value, "  "),
  amount: amountText,
  stamp: (leaf) => `${timeText(leaf.hlc_physical).replace(" UTC", "")}+${leaf.hlc_logical} UTC`,
  recorded: microsecondsText,
};

const unescaped = (text) =>
  text.replace(/\\(?:u([0-9a-f]{4})|.)/gs, (all, code) =>
    code && parseInt(code, 16) >= 0x20 ? String.fromCharCode(parseInt(code, 16)) : all);

const valueAt = (leaf, path) =>
  path ? path.split(".").reduce((value, name) => (value == null ? undefined : value[name]), leaf) : leaf;

// Compares every element of `root` that says it shows a part of the leaf (data-leaf: the path to it, data-as: its
// form); and each part of the leaf must be shown, each posting too.
export function compareShown(root, leaf) {
  const shownPaths = new Set();
  for (const element of root.querySelectorAll("[data-leaf]")) {
    const { leaf: path, as = "text" } = element.dataset;
    const value = valueAt(leaf, path);
    const expected = value === undefined ? "nothing of the kind" : FORMS[as](value);
    const text = as === "json" ? unescaped(element.textContent) : element.textContent.trim();
    const name = path || as;
    if (text !== expected) throw new Wrong(`the page shows ${name} as "${text}", and the signed bytes say "${expected}"`);
    for (const each of as === "stamp" ? ["hlc_physical", "hlc_logical"] : [path]) shownPaths.add(each);
  }
  const postings = (leaf.payload.postings ?? []).map((_, place) => `payload.postings.${place}`);
  const needed = [...Object.keys(leaf), ...postings, ...postings.map((path) => `${path}.account`)];
  const missing = needed.find((path) => !shownPaths.has(path));
  if (missing) throw new Wrong(`the signed bytes have ${missing}, which the page does not show`);
}

// --- all of it ------------------------------------------------------------------------------------------------------

// Runs the steps in order and tells each result. `shown`: the element with all that the page shows; `asked`: the cell and position on the page; `proof`: what the console
// got from the cell; `configured`: the keys that the console was set up with.
export async function verifyEvent({ shown, asked, proof, configured, storage, tell }) {
  const origin = ORIGIN + asked.cell;
  const leafBytes = fromBase64(proof.event_json, "the event");
  const leaf = parseLeaf(leafBytes);
  if (leaf.position !== asked.position) throw new Wrong(`the cell has proved event ${leaf.position}, not this one`);
  const hash = await leafHash(leafBytes);
  tell(`The bytes of the event give the leaf hash ${hex(hash)}.`);
  const { key, source } = await trustedKey(origin, configured, proof.keys, storage);
  const checkpoint = await checkpointIn(proof.checkpoint, key);
  tell(`The checkpoint over ${checkpoint.size} events of ${origin} is signed by key ${key.id}.`);
  const path = proof.path.map((each) => fromBase64(each, "the path"));
  const root = await rootOf(hash, asked.position - 1, checkpoint.size, path);
  if (hex(root) !== hex(checkpoint.root)) {
    throw new Wrong("the path from the event does not lead to the root that the checkpoint signs");
  }
  tell(`The path of ${path.length} hashes leads from the event to the signed root.`);
  compareShown(shown, { ...leaf, leaf_hash: hex(hash), cell: asked.cell });
  tell("Everything that this page shows of the event is what the signed bytes say.");
  const witnesses = await witnessesOf(checkpoint, await Promise.all(configured.map(parseKey)));
  for (const each of witnesses) tell(`Witness ${each.name} has signed the checkpoint at ${timeText(each.timeMs)}.`);
  return { key, source, checkpoint };
}
