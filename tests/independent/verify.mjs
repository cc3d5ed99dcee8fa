// A second verifier of exports, in another language, that shares no code with the guard. It was written from RFC 6962,
// RFC 9162, RFC 8785, C2SP signed-note, tlog-checkpoint, tlog-tiles and tlog-proof, and docs/reference/export.md.
// It needs only Node's standard library:
//
//     node verify.mjs EXPORT KEYS [APPROVERS]
//
// KEYS contains C2SP verifier lines, oldest first. APPROVERS is the output of `mcp-guard approvers list --json`. Exit code 0: everything was proved; 1: something was not.

import { createHash, createPublicKey, verify as check } from 'node:crypto';
import { existsSync, lstatSync, readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';

const PAYLOADS = ['request', 'facts', 'material', 'response', 'subject'];
const WIDTH = 256;
const MAX_FILE = 256 * 2 ** 20;

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

// Whoever made the export chose its files: a device or a pipe would never end, and a sparse file would fill the memory.
function readRegular(path, encoding) {
  const status = lstatSync(path);
  ensure(status.isFile() && status.size <= MAX_FILE, `${path} is not a regular file of at most ${MAX_FILE} bytes`);
  return readFileSync(path, encoding);
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
      const data = readRegular(join(this.folder, tilePath(level, n, width)));
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

// Approvals (docs/reference/receipts.md, "An approver's signature")

const SIGNED = ['origin', 'approval', 'request_hash', 'decision_hash', 'verdict', 'approver', 'name', 'rationale', 'at',
  'rules', 'expires', 'commitment'];
const SIGNED_4 = ['origin', 'approval', 'request_hash', 'decision_hash', 'verdict', 'approver', 'rationale', 'at'];
const ABOUT = ['agent', 'owner', 'instance', 'on_behalf_of', 'user_issuer', 'upstream', 'tool', 'definition', 'resource',
  'verb', 'ticket', 'reason', 'claimed', 'policy_version'];
const OF_REQUEST = [...ABOUT, 'commitment', 'expires', 'resource_argument'];
const CLAIMS = { ticket: 'guard_ticket', reason: 'guard_reason' };
const STATEMENT_SECONDS = 600;

const same = (left, right) => canonical(left ?? null) === canonical(right ?? null);
// Whether a text is the whole one, or its beginning with the mark for the rest.
function isBeginning(text, whole) {
  const mark = `\u2026 [cut from ${[...whole].length} characters, sha256:${sha256(Buffer.from(whole)).toString('hex')}]`;
  return text === whole || (text.endsWith(mark) && whole.startsWith(text.slice(0, -mark.length)));
}

const micros = (time) => BigInt(Date.parse(`${time.slice(0, 19)}Z`)) * 1000n + BigInt(time.slice(20, 26));

function checkSame(seq, receipt, signed, names, of) {
  const differing = names.filter((name) => !same(receipt[name], signed[name]));
  ensure(differing.length === 0, `receipt ${seq}: ${of} is for another ${differing.join(', ')}`);
}

function suffices(signedIn, { acr, mfa, seconds }, at) {
  return Boolean(signedIn) && (!acr || acr.includes(signedIn.acr)) && (!mfa || (signedIn.amr ?? []).includes('mfa'))
    && (!seconds || (Boolean(signedIn.at) && micros(at) - micros(signedIn.at) <= BigInt(seconds) * 1000000n));
}

// A statement as it was signed: by an Ed25519 key, or as the challenge of a passkey (WebAuthn level 3, §7.2).
function checkVoteSignature(seq, receipt, key) {
  const isOfFormat4 = !('commitment' in receipt);
  const members = { type: `mcp-guard/approval/v${isOfFormat4 ? 1 : 2}` };
  for (const name of isOfFormat4 ? SIGNED_4 : SIGNED) members[name] = receipt[name];
  const others = isOfFormat4 ? ['terms'] : [...ABOUT, 'resource_argument', 'terms', 'signed_in'];
  for (const name of others) if (name in receipt) members[name] = receipt[name];
  const text = Buffer.from(canonical(members));
  const given = receipt.signature;
  const signature = fromBase64(given.signature);
  const bytes = fromBase64(key.public);
  if (key.method === 'ed25519') {
    const der = Buffer.concat([Buffer.from('302a300506032b6570032100', 'hex'), bytes]);
    const publicKey = createPublicKey({ key: der, format: 'der', type: 'spki' });
    ensure(check(null, text, publicKey, signature), `receipt ${seq}: the vote is not signed by ${receipt.approver}`);
    return;
  }
  const [clientData, authenticatorData] = [fromBase64(given.client_data), fromBase64(given.authenticator_data)];
  const client = JSON.parse(clientData);
  ensure(client.type === 'webauthn.get' && client.challenge === sha256(text).toString('base64url')
    && client.origin === key.details.origin && !client.crossOrigin
    && authenticatorData.subarray(0, 32).equals(sha256(key.details.rp_id)) && (authenticatorData[32] & 5) === 5,
  `receipt ${seq}: the passkey signed something else`);
  const publicKey = createPublicKey({ key: bytes, format: 'der', type: 'spki' });
  const hash = publicKey.asymmetricKeyType === 'ed25519' ? null : 'sha256';
  const message = Buffer.concat([authenticatorData, sha256(clientData)]);
  ensure(check(hash, message, publicKey, signature), `receipt ${seq}: the vote is not signed by ${receipt.approver}`);
}

class Approvals {
  // Receipts before `migrated`, the number of the receipt that records a migration, are of format 4.
  constructor(trusted, migrated) {
    this.migrated = migrated;
    Object.assign(this, { trusted, keys: new Map(), enrolled: new Set(), open: new Map(), ids: new Set(), grants: new Map(), votes: 0 });
    this.held = null; // the latest decision that requires approval
    this.consumed = null; // the receipt before, if it consumed something
    this.running = new Map(); // what each intent without outcome has consumed
    this.unsent = null; // the receipt before, if it says that a call was not sent: what that call had consumed
    this.time = '';
  }

  check(seq, receipt) {
    ensure(receipt.time >= this.time, `receipt ${seq}: its time is before that of the receipt before it`);
    this.time = receipt.time;
    const { kind } = receipt;
    if (seq < this.migrated) { this.checkOfFormat4(seq, receipt); return; }
    if (kind === 'ledger.migrated') { // everything that was open has ended
      ensure(seq === this.migrated && receipt.from === 4, `receipt ${seq}: records a migration that cannot be here`);
      this.open.clear();
      this.grants.clear();
      this.held = null;
      return;
    }
    const [before, unsent] = [this.consumed, this.unsent];
    [this.consumed, this.unsent] = [null, null];
    ensure(!before || (kind === 'intent' && receipt.outcome === 'require_approval'), `receipt ${seq}: no intent follows what was consumed`);
    if (kind === 'decision' && receipt.outcome === 'require_approval') this.held = { seq, receipt };
    else if (kind === 'approver.enrolled') {
      ensure(!this.enrolled.has(receipt.public), `receipt ${seq}: key ${receipt.key} is enrolled twice`);
      this.enrolled.add(receipt.public);
      this.keys.set(receipt.key, receipt);
    }
    else if (kind === 'approver.removed') this.keys.delete(receipt.key);
    else if (kind === 'outcome') {
      const [intent] = receipt.follows;
      if (receipt.ending === 'not_sent') this.unsent = this.running.get(intent) ?? null;
      this.running.delete(intent);
    }
    else if (kind === 'approval.released' || kind === 'grant.released') this.release(seq, receipt, unsent);
    else if (kind === 'approval.requested') this.request(seq, receipt);
    else if (kind.startsWith('approval.')) this.step(seq, receipt);
    else if (kind.startsWith('grant.')) this.grant(seq, receipt);
    else if (kind === 'intent' && receipt.outcome === 'require_approval') this.intent(seq, receipt, before);
    else if (kind === 'intent') ensure(!('approval' in receipt) && (receipt.purpose === 'facts') === !('outcome' in receipt), `receipt ${seq}: names approvers, although no approval was required`);
  }

  // Of a receipt of format 4: that votes are signed with a key of the approver.
  checkOfFormat4(seq, receipt) {
    const { kind } = receipt;
    ensure(!('authorized_by' in receipt) && !('commitment' in receipt), `receipt ${seq}: is of a newer format than its place`);
    if (kind === 'approval.requested' || kind === 'grant.given') this.ids.add(receipt.grant ?? receipt.approval);
    else if (kind === 'approver.removed') this.keys.delete(receipt.key);
    else if (kind === 'approver.enrolled') {
      this.enrolled.add(receipt.public);
      this.keys.set(receipt.key, receipt);
    } else if (kind === 'approval.granted' || kind === 'approval.denied') {
      this.checkSigner(seq, receipt);
      this.votes += 1;
    }
  }

  request(seq, receipt) {
    const { approval: id, commitment, rules } = receipt;
    ensure(!this.ids.has(id), `receipt ${seq}: approval ${id} is requested twice`);
    this.ids.add(id);
    ensure(this.held && same(receipt.follows, [this.held.seq]), `receipt ${seq}: no decision requires approval ${id}`);
    ensure(this.held.receipt.request === commitment && this.held.receipt.tool === receipt.tool
      && this.held.receipt.instance === receipt.instance, `receipt ${seq}: approval ${id} is for another request`);
    this.open.set(id, { requested: receipt, rules, votes: [], state: 'requested' });
  }

  step(seq, receipt) {
    const { approval: id, kind } = receipt;
    const approval = this.open.get(id);
    ensure(approval, `receipt ${seq}: approval ${id} is unknown or has ended`);
    const { requested } = approval;
    checkSame(seq, receipt, requested, [...OF_REQUEST, 'decision_hash'], `approval ${id}`);
    if (kind === 'approval.granted' || kind === 'approval.denied') this.vote(seq, receipt, approval);
    if (kind === 'approval.escalated') {
      const old = approval.rules;
      ensure(approval.state === 'requested' && old.length === receipt.rules.length && receipt.rules.every((rule, at) => rule.route === old[at].route
        && rule.quorum === old[at].quorum && old[at].approvers.every((name) => rule.approvers.includes(name))), `receipt ${seq}: escalated by more than adding approvers`);
      approval.rules = receipt.rules;
    }
    else if (kind === 'approval.granted') {
      if (receipt.missing) return;
      const voters = approval.votes.map((vote) => vote.approver);
      ensure(approval.rules.every((rule) => rule.approvers.filter((name) => voters.includes(name)).length >= rule.quorum),
        `receipt ${seq}: approval ${id} requires more votes`);
      approval.state = 'granted';
      approval.seq = seq;
    } else if (kind === 'approval.consumed') {
      ensure(approval.state === 'granted' && receipt.time < requested.expires, `receipt ${seq}: approval ${id} cannot be consumed`);
      this.checkNamed(seq, receipt, approval);
      approval.state = 'consumed';
      this.consumed = { approval };
    } else this.open.delete(id);
  }

  // What a call has consumed is given back only by the outcome just before, that it was not sent.
  release(seq, receipt, unsent) {
    const { approval: id, grant: grantId } = receipt;
    if (receipt.kind === 'approval.released') {
      const approval = unsent?.approval;
      ensure(approval?.requested.approval === id, `receipt ${seq}: approval ${id} is released, but its call was not unsent`);
      checkSame(seq, receipt, approval.requested, [...OF_REQUEST, 'decision_hash'], `approval ${id}`);
      approval.state = 'granted';
      this.open.set(id, approval);
      return;
    }
    const grant = unsent?.grant;
    ensure(grant?.given.grant === grantId && this.grants.get(grantId) === grant, `receipt ${seq}: a use of grant ${grantId} is released, but its call was not unsent`);
    ensure(receipt.use === grant.spent, `receipt ${seq}: another use of grant ${grantId} is released`);
    grant.spent -= 1;
  }

  checkSigner(seq, receipt) {
    const { approver } = receipt;
    const key = this.keys.get(receipt.key);
    ensure(key && key.approver === approver, `receipt ${seq}: ${approver} has no key ${receipt.key}`);
    const trusted = this.trusted?.find((other) => other.key === receipt.key);
    ensure(!this.trusted || (trusted && ['approver', 'method', 'public'].every((name) => trusted[name] === key[name])
      && ['rp_id', 'origin'].every((name) => trusted.details?.[name] === key.details?.[name])),
      `receipt ${seq}: the key of ${approver} was not given`);
    checkVoteSignature(seq, receipt, key);
  }

  vote(seq, receipt, approval) {
    const { approver } = receipt;
    this.checkSigner(seq, receipt);
    const { requested, rules, votes } = approval;
    ensure(same(receipt.rules, rules) && rules.some((rule) => rule.approvers.includes(approver)), `receipt ${seq}: ${approver} signed other rules`);
    ensure(requested.time <= receipt.at && receipt.at <= receipt.time && receipt.time < requested.expires
      && micros(receipt.time) - micros(receipt.at) <= BigInt(STATEMENT_SECONDS) * 1000000n, `receipt ${seq}: the vote was not given in time`);
    ensure(receipt.verdict === (receipt.kind === 'approval.granted' ? 'approve' : 'deny'), `receipt ${seq}: ${approver} signed ${receipt.verdict}`);
    for (const rule of rules) {
      const isMet = !rule.sign_in || !rule.approvers.includes(approver) || suffices(receipt.signed_in, rule.sign_in, receipt.at);
      ensure(isMet, `receipt ${seq}: ${approver} was not signed in as route ${rule.route} demands`);
    }
    this.votes += 1;
    if (receipt.verdict !== 'approve') return;
    ensure(votes.every((vote) => vote.approver !== approver && same(vote.terms, receipt.terms)), `receipt ${seq}: ${approver} voted twice, or on other terms`);
    votes.push(receipt);
  }

  checkNamed(seq, used, { votes }) {
    const named = used.approvers ?? [];
    ensure(named.length === votes.length && named.every((by, at) => by.approver === votes[at].approver && by.name === votes[at].name
      && isBeginning(by.rationale, votes[at].rationale) && !by.self_approved === !votes[at].self_approved), `receipt ${seq}: names approvers who have not voted`);
  }

  grant(seq, receipt) {
    const { grant: id, kind } = receipt;
    if (kind === 'grant.given') {
      const approval = this.open.get(receipt.approval);
      ensure(approval?.state === 'granted' && approval.seq === seq - 1, `receipt ${seq}: grant ${id} was given without an approval`);
      const seconds = Number(micros(receipt.until) - micros(receipt.time)) / 1e6;
      const terms = { uses: receipt.uses, seconds, free: receipt.free ?? [] };
      ensure(same(terms, approval.votes.at(-1)?.terms), `receipt ${seq}: grant ${id} differs from the signed terms`);
      checkSame(seq, receipt, approval.requested, OF_REQUEST, `grant ${id}`);
      this.grants.set(id, { given: receipt, approval, spent: 0, taken: 0 });
      return;
    }
    const grant = this.grants.get(id);
    ensure(grant, `receipt ${seq}: grant ${id} is unknown or has ended`);
    if (kind === 'grant.revoked') { this.grants.delete(id); return; }
    grant.spent += 1;
    ensure(receipt.use === grant.spent && grant.spent <= grant.given.uses && receipt.time <= grant.given.until, `receipt ${seq}: grant ${id} is used beyond its limits`);
    this.consumed = { grant };
  }

  intent(seq, receipt, before) {
    const used = receipt.approval ?? {};
    ensure(receipt.purpose !== 'facts', `receipt ${seq}: one of the guard's own reads, with an approval`);
    if (!('grant' in used)) {
      const approval = before?.approval;
      ensure(approval && approval.requested.approval === used.id, `receipt ${seq}: no approval was consumed for the intent`);
      checkSame(seq, receipt, approval.requested, ABOUT, `approval ${used.id}`);
      ensure(receipt.request === approval.requested.commitment, `receipt ${seq}: approval ${used.id} is for another request`);
      this.checkNamed(seq, used, approval);
      this.open.delete(used.id);
      this.running.set(seq, { approval });
      return;
    }
    const grant = before?.grant;
    ensure(grant && grant.given.grant === used.grant && used.use === grant.spent, `receipt ${seq}: no use of grant ${used.grant} was recorded`);
    const free = grant.given.free ?? [];
    const signed = grant.approval.requested;
    const bound = ABOUT.filter((name) => name !== 'claimed' && !free.includes(CLAIMS[name])
      && (name !== 'resource' || !free.includes(signed.resource_argument)));
    checkSame(seq, receipt, signed, bound, `grant ${used.grant}`);
    this.checkNamed(seq, used, grant.approval);
    this.running.set(seq, { grant });
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
  const lines = readRegular(path, 'utf8').split('\n');
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

// The number of the receipt that records a migration from format 4; -1 if there is none.
function findMigration(folder, size) {
  for (let n = 0; n * WIDTH < size; n += 1) {
    const bytes = readRegular(join(folder, tilePath('entries', n, Math.min(WIDTH, size - n * WIDTH))));
    if (!bytes.includes('"kind":"ledger.migrated"')) continue;
    return n * WIDTH + splitBundle(bytes).findIndex((entry) => entry.includes('"kind":"ledger.migrated"'));
  }
  return -1;
}

function checkExport(folder, keyFile, approversFile) {
  const keys = readRegular(keyFile, 'utf8').trim().split('\n').map(parseKey);
  const signers = new Signers(keys);
  // After a rotation, the head is signed by a key that only the receipts name, so its signature is checked last.
  const head = parseCheckpoint(readRegular(join(folder, 'checkpoint'), 'utf8'));
  const { size, origin } = head;
  const tiles = new Tiles(folder, size);
  const tree = new GrowingTree((level, index, hash) => {
    const stored = tiles.read(level, Math.floor(index / WIDTH)).subarray(32 * (index % WIDTH), 32 * (index % WIDTH) + 32);
    ensure(stored.equals(hash), `the stored node ${index} of level ${level} does not match the receipts below it`);
  });
  const [heads, kinds] = [new Map(), {}];
  const trusted = approversFile ? JSON.parse(readRegular(approversFile, 'utf8')) : undefined;
  const approvals = new Approvals(trusted, findMigration(folder, size));
  for (let n = 0; n * WIDTH < size; n += 1) {
    const width = Math.min(WIDTH, size - n * WIDTH);
    const entries = splitBundle(readRegular(join(folder, tilePath('entries', n, width))));
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
      approvals.check(seq, receipt);
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
  if (existsSync(cosigned)) heads.set('cosigned', parseCheckpoint(readRegular(cosigned, 'utf8')));
  for (const earlier of heads.values()) {
    checkSignature(earlier, signers.known);
    const same = earlier.size <= size && tiles.hash(0, earlier.size).equals(earlier.root);
    ensure(earlier.origin === origin && same, `a checkpoint of ${earlier.size} receipts, in a bundle or cosigned, belongs to another tree`);
  }
  const policies = existsSync(join(folder, 'policies')) ? readdirSync(join(folder, 'policies')) : [];
  for (const name of policies) {
    const hash = sha256(readRegular(join(folder, 'policies', name))).toString('hex');
    ensure(name === `${hash}.json`, `the file policies/${name} is not the policy version of that name`);
  }
  return { receipts: size, root: head.root.toString('base64'), kinds, policies: policies.length, heads: heads.size, votes: approvals.votes };
}

// What an export of unknown origin says is printed in ASCII, so that it neither hides nor moves anything on a terminal.
function print(report) {
  console.log(JSON.stringify(report).replace(/[^ -~]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`));
}

try {
  const [folder, keyFile, approversFile] = process.argv.slice(2);
  print({ ok: true, ...checkExport(folder, keyFile, approversFile) });
} catch (error) {
  print({ ok: false, problem: error.message });
  process.exitCode = 1;
}
