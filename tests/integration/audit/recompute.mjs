// Checks an export as docs/log-format.md describes it, with nothing but Node's own library: another implementation.
// node recompute.mjs EXPORT PUBLIC_KEY -> one JSON object
import { createHash, createPublicKey, verify } from "node:crypto";
import { readFileSync } from "node:fs";

const [, , file, key] = process.argv;
const hash = (...parts) => createHash("sha256").update(Buffer.concat(parts)).digest();
const [LEAF, NODE] = [Buffer.from([0]), Buffer.from([1])];

// RFC 9162, section 2.1.1, as it is written.
function root(leaves) {
  if (leaves.length === 0) return hash();
  if (leaves.length === 1) return leaves[0];
  let split = 1;
  while (split * 2 < leaves.length) split *= 2;
  return hash(NODE, root(leaves.slice(0, split)), root(leaves.slice(split)));
}

// "name+id+base64(type || key)"; Node wants the key in its DER wrapping.
const [name, id, ...rest] = key.split("+");
const raw = Buffer.from(rest.join("+"), "base64");
const der = Buffer.concat([Buffer.from("302a300506032b6570032100", "hex"), raw.subarray(1)]);
const publicKey = createPublicKey({ key: der, format: "der", type: "spki" });
const keyId = hash(Buffer.from(`${name}\n`), raw).subarray(0, 4);

function signed(note) {
  const end = note.indexOf("\n\n");
  const body = note.slice(0, end + 1);
  const line = note.slice(end + 2).split("\n").find((each) => each.startsWith(`\u2014 ${name} `));
  const content = Buffer.from(line.split(" ")[2], "base64");
  if (!content.subarray(0, 4).equals(keyId)) throw new Error("another key");
  if (!verify(null, Buffer.from(body), publicKey, content.subarray(4))) throw new Error("a wrong signature");
  const [origin, size, text] = body.split("\n");
  return { origin, size: Number(size), root: text };
}

const leaves = [];
const problems = [];
let checkpoints = 0;
let end = null;
for (const line of readFileSync(file).toString("latin1").split("\n")) {
  // Bytes stay bytes: a leaf is what stands between the two.
  const event = /^\{"event":(.*),"leaf_hash":"([0-9a-f]{64})"\}$/.exec(line);
  if (event) {
    leaves.push(hash(LEAF, Buffer.from(event[1], "latin1")));
    if (leaves.at(-1).toString("hex") !== event[2]) problems.push(leaves.length);
    continue;
  }
  const content = line ? JSON.parse(Buffer.from(line, "latin1").toString()) : {};
  if (content.checkpoint && !content.consistency) {
    const found = signed(content.checkpoint);
    checkpoints += 1;
    if (found.size !== leaves.length || found.root !== root(leaves).toString("base64")) problems.push(-found.size);
  }
  end = content.end ?? end;
}
console.log(JSON.stringify({ id: keyId.toString("hex") === id, checkpoints, problems, end, root: root(leaves).toString("base64") }));
