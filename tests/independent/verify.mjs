// A second verifier of exports, in another language, that shares no code with the guard. It was written from RFC 6962,
// RFC 9162, RFC 8785, C2SP signed-note, tlog-checkpoint, tlog-tiles and tlog-proof, and docs/reference/export.md.
// It needs only Node's standard library:
//
//     node verify.mjs EXPORT KEYS
//
// KEYS contains C2SP verifier lines, oldest first. Exit code 0: everything was proved; 1: something was not.

import { createHash, createPublicKey, verify as check } from 'node:crypto';
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';

const PAYLOADS = ['request', 'facts', 'material', 'response', 'subject'];
const WIDTH = 256;

function ensure(condition, problem) {
  if (!condition) throw new Error(problem);
}

const sha256 = (...parts) => parts.reduce((hash, part) => hash.update(part), createHash('sha256')).digest();
const leafHash = (entry) => sha256(Buffer.of(0), entry);
const nodeHash = (left, right) => sha256(Buffer.of(1), left, right);

function fromBase64(text) {
  const bytes = Buffer.from(text, 'base64');
  ensure(bytes.toString('base64') === text, `not base64: ${text}`);
  return bytes;
}

// Keys and notes (C2SP signed-note, tlog-checkpoint)

function parseKey(line) {
  const [name, id, ...rest] = line.split('+');
  const encoded = fromBase64(rest.join('+'));
  ensure(encoded[0] === 1 && encoded.length === 33, `not an Ed25519 verifier line: ${line}`);
  ensure(sha256(name, '\n', encoded).subarray(0, 4).toString('hex') === id, `the key id does not match the key: ${line}`);
  const prefix = Buffer.from('302a300506032b6570032100', 'hex'); // SubjectPublicKeyInfo of Ed25519, RFC 8410
  const key = createPublicKey({ key: Buffer.concat([prefix, encoded.subarray(1)]), format: 'der', type: 'spki' });
  return { line, name, id, verifies: (bytes, signature) => check(null, bytes, key, signature) };
}

function parseCheckpoint(note) {
  const end = note.lastIndexOf('\n\n');
  ensure(end > 0 && note.endsWith('\n'), 'the checkpoint is not a signed note');
  const text = note.slice(0, end + 1);
  const signatures = note.slice(end + 2, -1).split('\n').map((line) => {
    const [dash, name, encoded, ...more] = line.split(' ');
    ensure(dash === '\u2014' && encoded && more.length === 0, `not a signature line: ${line}`);
    const raw = fromBase64(encoded);
    return { name, id: raw.subarray(0, 4).toString('hex'), signature: raw.subarray(4) };
  });
  const [origin, size, root] = text.split('\n');
  ensure(/^(0|[1-9][0-9]*)$/.test(size), `not a size: ${size}`);
  return { text, signatures, origin, size: Number(size), root: fromBase64(root) };
}

function checkSignature(checkpoint, keys) {
  let signatures = 0;
  for (const { name, id, signature } of checkpoint.signatures) {
    const known = keys.find((key) => key.name === name && key.id === id);
    if (!known) continue; // signed-note: signatures of unknown keys are ignored
    ensure(known.verifies(Buffer.from(checkpoint.text), signature), 'the checkpoint is not signed by its key');
    signatures += 1;
  }
  ensure(signatures > 0, 'no key of this ledger has signed the checkpoint');
}

// The tree (RFC 6962 §2.1, C2SP tlog-tiles)

function tilePath(kind, n, width) {
  let number = String(n % 1000).padStart(3, '0');
  for (let rest = Math.floor(n / 1000); rest > 0; rest = Math.floor(rest / 1000)) {
    number = `x${String(rest % 1000).padStart(3, '0')}/${number}`;
  }
  return `tile/${kind}/${number}${width < WIDTH ? `.p/${width}` : ''}`;
}

class Tiles {
  constructor(folder, size) {
    this.folder = folder;
    this.size = size;
    this.cache = new Map();
  }

  read(level, n) {
    const at = `${level}/${n}`;
    if (!this.cache.has(at)) {
      const width = Math.min(WIDTH, Math.floor(this.size / WIDTH ** level) - n * WIDTH);
      const data = readFileSync(join(this.folder, tilePath(level, n, width)));
      ensure(data.length === 32 * width, `tile ${at} has ${data.length} bytes, not ${width} hashes`);
      if (this.cache.size > 64) this.cache.clear();
      this.cache.set(at, data);
    }
    return this.cache.get(at);
  }

  // MTH(D[start:end]), from the tiles alone.
  hash(start, end) {
    const length = end - start;
    for (let level = 0, span = 1; span <= length; level += 1, span *= WIDTH) {
      if (span === length && start % span === 0) {
        const index = start / span;
        const offset = 32 * (index % WIDTH);
        return this.read(level, Math.floor(index / WIDTH)).subarray(offset, offset + 32);
      }
    }
    let middle = 1;
    while (middle * 2 < length) middle *= 2;
    return nodeHash(this.hash(start, start + middle), this.hash(start + middle, end));
  }
}

// The root of leaves that are added one by one; `onFull` is called with the root of each full subtree.
class GrowingTree {
  constructor(onFull) {
    this.size = 0;
    this.stack = []; // of [height, hash]
    this.onFull = onFull;
  }

  add(leaf) {
    let height = 0;
    let hash = leaf;
    while (this.stack.length > 0 && this.stack.at(-1)[0] === height) {
      hash = nodeHash(this.stack.pop()[1], hash);
      height += 1;
      if (height % 8 === 0) this.onFull(height / 8, Math.floor(this.size / 2 ** height), hash);
    }
    this.stack.push([height, hash]);
    this.size += 1;
  }

  root() {
    if (this.stack.length === 0) return sha256();
    return this.stack.slice(0, -1).reduceRight((right, [, left]) => nodeHash(left, right), this.stack.at(-1)[1]);
  }
}

// RFC 9162 §2.1.3.2
function rootOfInclusion(leaf, index, size, path) {
  ensure(index < size, `entry ${index} in a tree of ${size}`);
  let [fn, sn, hash] = [index, size - 1, leaf];
  const half = (number) => Math.floor(number / 2);
  for (const sibling of path) {
    ensure(sn > 0, `the proof of ${index} is too long`);
    if (fn % 2 === 1 || fn === sn) {
      hash = nodeHash(sibling, hash);
      while (fn % 2 === 0 && fn !== 0) [fn, sn] = [half(fn), half(sn)];
    } else {
      hash = nodeHash(hash, sibling);
    }
    [fn, sn] = [half(fn), half(sn)];
  }
  ensure(sn === 0, `the proof of ${index} is too short`);
  return hash;
}

// Entries and bundles

function splitBundle(data) {
  const entries = [];
  for (let at = 0; at < data.length; ) {
    const length = data.readUInt16BE(at);
    ensure(at + 2 + length <= data.length, 'an entry bundle is truncated');
    entries.push(data.subarray(at + 2, at + 2 + length));
    at += 2 + length;
  }
  return entries;
}

// RFC 8785: the output of JSON.stringify, with the members in the order of their UTF-16 code units.
function canonical(value) {
  if (Array.isArray(value)) return `[${value.map(canonical).join(',')}]`;
  if (value === null || typeof value !== 'object') return JSON.stringify(value);
  const members = Object.keys(value).sort().map((name) => `${JSON.stringify(name)}:${canonical(value[name])}`);
  return `{${members.join(',')}}`;
}

class Signers {
  constructor(keys) {
    [this.now] = keys;
    this.known = keys;
  }

  checkReceipt(seq, entry, origin) {
    const end = entry.lastIndexOf('\n');
    const body = entry.subarray(0, end);
    const receipt = JSON.parse(body);
    ensure(Buffer.from(canonical(receipt)).equals(body), `receipt ${seq} is not an RFC 8785 document`);
    ensure(receipt.seq === seq && receipt.origin === origin, `receipt ${seq}: its seq or origin does not match its place in this ledger`);
    if (receipt.kind === 'key.replaced') {
      const next = this.known.find((key) => key.line === receipt.new);
      ensure(next, `receipt ${seq}: a lost key was replaced by a key that was not given`);
      this.now = next;
    }
    const signature = fromBase64(entry.subarray(end + 1).toString());
    ensure(this.now.verifies(body, signature), `receipt ${seq} is not signed by the guard's key`);
    if (receipt.kind === 'key.rotated') this.rotate(receipt, seq, origin);
    return receipt;
  }

  rotate(receipt, seq, origin) {
    const next = parseKey(receipt.new);
    ensure(receipt.old === this.now.line, `receipt ${seq}: the old key is not the key in use`);
    const claim = { new: receipt.new, old: receipt.old, origin, seq, type: 'mcp-guard/key-rotation/v1' };
    const possession = fromBase64(receipt.possession);
    ensure(next.verifies(Buffer.from(canonical(claim)), possession), `receipt ${seq}: the new key did not sign its own introduction`);
    this.now = next;
    if (!this.known.some((key) => key.line === next.line)) this.known.push(next);
  }
}

function checkLine(line, seq, entry, heads) {
  const bundle = JSON.parse(line);
  ensure(bundle.form === 'mcp-guard/bundle/v1', `bundle ${seq} has another form`);
  ensure(Buffer.from(bundle.entry).equals(entry), `bundle ${seq} contains another entry`);
  const split = bundle.proof.indexOf('\n\n');
  const [form, index, ...path] = bundle.proof.slice(0, split).split('\n');
  ensure(form === 'c2sp.org/tlog-proof@v1' && index === `index ${seq}`, `bundle ${seq} proves something else`);
  const note = bundle.proof.slice(split + 2);
  if (!heads.has(note)) heads.set(note, parseCheckpoint(note));
  const { size, root } = heads.get(note);
  const proved = rootOfInclusion(leafHash(entry), seq, size, path.map(fromBase64));
  ensure(proved.equals(root), `the inclusion proof of bundle ${seq} does not lead to the root of its checkpoint`);
}

function readLines(path) {
  const lines = readFileSync(path, 'utf8').split('\n');
  ensure(lines.pop() === '', `${path} is truncated`);
  return lines;
}

function checkPayloads(path, first, receipts) {
  for (const line of readLines(path)) {
    const { seq, ...cells } = JSON.parse(line);
    const receipt = receipts[seq - first];
    for (const [name, { salt, payload }] of Object.entries(cells)) {
      const commitment = `sha256:${sha256(fromBase64(salt), fromBase64(payload)).toString('hex')}`;
      ensure(PAYLOADS.includes(name), `receipt ${seq}: unknown payload name \`${name}\``);
      ensure(receipt[name] === commitment, `receipt ${seq}: its payload \`${name}\` does not match its commitment`);
    }
  }
}

function checkExport(folder, keyFile) {
  const keys = readFileSync(keyFile, 'utf8').trim().split('\n').map(parseKey);
  const signers = new Signers(keys);
  // After a rotation, the head is signed by a key that only the receipts name, so its signature is checked last.
  const head = parseCheckpoint(readFileSync(join(folder, 'checkpoint'), 'utf8'));
  const { size, origin } = head;
  const tiles = new Tiles(folder, size);
  const tree = new GrowingTree((level, index, hash) => {
    const stored = tiles.read(level, Math.floor(index / WIDTH)).subarray(32 * (index % WIDTH), 32 * (index % WIDTH) + 32);
    ensure(stored.equals(hash), `the stored node ${index} of level ${level} does not match the receipts below it`);
  });
  const [heads, kinds] = [new Map(), {}];
  for (let n = 0; n * WIDTH < size; n += 1) {
    const width = Math.min(WIDTH, size - n * WIDTH);
    const entries = splitBundle(readFileSync(join(folder, tilePath('entries', n, width))));
    ensure(entries.length === width, `entry bundle ${n} contains ${entries.length} entries, not ${width}`);
    const level0 = tiles.read(0, n);
    const number = tilePath('entries', n, WIDTH).slice('tile/entries/'.length);
    const lines = readLines(join(folder, 'bundles', `${number}.jsonl`));
    ensure(lines.length === width, `there are ${lines.length} bundles in file ${number}, not ${width}`);
    const receipts = entries.map((entry, at) => {
      const seq = n * WIDTH + at;
      const receipt = signers.checkReceipt(seq, entry, origin);
      const leaf = leafHash(entry);
      ensure(level0.subarray(32 * at, 32 * at + 32).equals(leaf), `receipt ${seq}: leaf hash mismatch`);
      tree.add(leaf);
      checkLine(lines[at], seq, entry, heads);
      kinds[receipt.kind] = (kinds[receipt.kind] ?? 0) + 1;
      return receipt;
    });
    const payloads = join(folder, 'payloads', `${number}.jsonl`);
    if (existsSync(payloads)) checkPayloads(payloads, n * WIDTH, receipts);
  }
  checkSignature(head, [signers.now]);
  ensure(tree.root().equals(head.root), 'the root of the entries is not the root of the signed checkpoint');
  ensure(size > 0 && tiles.hash(0, size).equals(head.root), 'the root of the tiles is not the root of the signed checkpoint');
  const cosigned = join(folder, 'cosigned');
  if (existsSync(cosigned)) heads.set('cosigned', parseCheckpoint(readFileSync(cosigned, 'utf8')));
  for (const earlier of heads.values()) {
    checkSignature(earlier, signers.known);
    const same = earlier.size <= size && tiles.hash(0, earlier.size).equals(earlier.root);
    ensure(earlier.origin === origin && same, `a checkpoint of ${earlier.size} receipts, in a bundle or cosigned, belongs to another tree`);
  }
  const policies = existsSync(join(folder, 'policies')) ? readdirSync(join(folder, 'policies')) : [];
  for (const name of policies) {
    const hash = sha256(readFileSync(join(folder, 'policies', name))).toString('hex');
    ensure(name === `${hash}.json`, `the file policies/${name} is not the policy version of that name`);
  }
  return { receipts: size, root: head.root.toString('base64'), kinds, policies: policies.length, heads: heads.size };
}

try {
  const [folder, keyFile] = process.argv.slice(2);
  console.log(JSON.stringify({ ok: true, ...checkExport(folder, keyFile) }));
} catch (error) {
  console.log(JSON.stringify({ ok: false, problem: error.message }));
  process.exitCode = 1;
}
