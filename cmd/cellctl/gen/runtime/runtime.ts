import * as fs from "node:fs";
import * as net from "node:net";
import * as path from "node:path";
import { randomBytes } from "node:crypto";

export type Kind =
  | "failed" | "bad input" | "not found" | "denied" | "overloaded" | "unavailable" | "timed out" | "canceled" | "may have run"
  | "function error" | "too large" | "unsupported" | "corrupt" | "incompatible" | "bad reply";

const kinds: Kind[] = [
  "failed", "failed", "bad input", "not found", "denied", "overloaded", "unavailable", "timed out", "canceled", "may have run",
  "function error", "too large", "unsupported", "corrupt", "incompatible", "bad reply",
];

/** What became of a call that has no reply. hint says what to try, retryAfter is in milliseconds. */
export class CellError extends Error {
  readonly kind: Kind;
  readonly hint: string;
  readonly retryAfter: number;
  constructor(kind: Kind, message: string, hint = "", retryAfter = 0) {
    super(message);
    this.kind = kind;
    this.hint = hint;
    this.retryAfter = retryAfter;
  }
}

/** Says that a call is not wanted any more: an AbortSignal. */
export interface Signal {
  readonly aborted: boolean;
  addEventListener(type: "abort", f: () => void): void;
  removeEventListener(type: "abort", f: () => void): void;
}

/** Options of one call. timeout is in milliseconds; signal ends the call, and the reading of its reply. */
export interface Options {
  timeout?: number;
  signal?: Signal;
}

/** Options of a call of an idempotent function: with the same key it is done once. */
export interface KeyedOptions extends Options {
  key?: string;
}

const [REQUEST, REPLY, EVENT, CHUNK, END, CANCEL, PING, PONG, HELLO, GOAWAY, CREDIT] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11];
const MAX_FRAME = 1 << 20;
const MAX_ARGS = 256 << 10;
const CHUNK_SIZE = 64 << 10;
const WINDOW = 256 << 10;
const MAX_TARGET = 512;
const MAX_KEY = 64;
const MAX_REPLY = 64 << 20;
const MAX_TIMEOUT = 2 ** 31 - 1; // ms, what a timer of Node can have; what is longer than that is as long

type Header = Map<number | string, unknown>;

function head(major: number, n: number): Buffer {
  if (n < 24) return Buffer.from([(major << 5) | n]);
  if (n < 256) return Buffer.from([(major << 5) | 24, n]);
  const b = Buffer.alloc(9);
  b[0] = (major << 5) | 27;
  b.writeBigUInt64BE(BigInt(n), 1);
  if (n < 65536) return Buffer.concat([Buffer.from([(major << 5) | 25]), b.subarray(7)]);
  if (n < 4294967296) return Buffer.concat([Buffer.from([(major << 5) | 26]), b.subarray(5)]);
  return b;
}

/** Encodes what a header and a hello have: numbers, texts, bytes, lists, maps with ascending keys. */
function cbor(v: unknown): Buffer {
  if (typeof v === "number") return head(0, v);
  if (typeof v === "string") return Buffer.concat([head(3, Buffer.byteLength(v)), Buffer.from(v)]);
  if (v instanceof Uint8Array) return Buffer.concat([head(2, v.length), v]);
  if (Array.isArray(v)) return Buffer.concat([head(4, v.length), ...v.map(cbor)]);
  const pairs = [...(v as Header)];
  return Buffer.concat([head(5, pairs.length), ...pairs.flatMap(([k, x]) => [cbor(k), cbor(x)])]);
}

function uncbor(data: Buffer, at: { pos: number }, depth = 0): unknown {
  if (at.pos >= data.length || depth > 8) throw new CellError("failed", "a header that is cut off, or nested too deep");
  const major = data[at.pos] >> 5;
  const info = data[at.pos++] & 31;
  let n = info;
  if (info > 27) throw new CellError("failed", "a header of an unknown form");
  if (info >= 24) {
    const size = 1 << (info - 24);
    if (data.length - at.pos < size) throw new CellError("failed", "a header that is cut off");
    n = size === 8 ? Number(data.readBigUInt64BE(at.pos)) : data.readUIntBE(at.pos, size);
    at.pos += size;
  }
  if (major === 0) return n;
  if (major === 1) return -1 - n;
  if (major === 7) return n === 21;
  if (n > data.length - at.pos) throw new CellError("failed", "a header that is cut off");
  if (major === 2 || major === 3) {
    const raw = data.subarray(at.pos, at.pos + n);
    at.pos += n;
    return major === 2 ? raw : raw.toString("utf8");
  }
  if (major === 4) return Array.from({ length: n }, () => uncbor(data, at, depth + 1));
  if (major !== 5) throw new CellError("failed", "a header of an unknown form");
  const pairs: Header = new Map();
  for (let i = 0; i < n; i++) {
    const key = uncbor(data, at, depth + 1) as number | string;
    pairs.set(key, uncbor(data, at, depth + 1));
  }
  return pairs;
}

/** Takes out what could drive a terminal. */
function clean(text: string): string {
  return text.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, " ");
}

function errorOf(header: Header, payload: Buffer): CellError {
  const [text, hint] = [clean(payload.toString("utf8")), clean(String(header.get(11) ?? ""))];
  return new CellError(kinds[Number(header.get(8))] ?? "failed", text, hint, Number(header.get(9) ?? 0));
}

function aborted(): CellError {
  return new CellError("canceled", "the caller has ended the call");
}

/** One call. What comes is kept until it is read. */
class Call {
  readonly conn: Conn;
  readonly number: number;
  header?: Header;
  payload: Buffer = Buffer.alloc(0);
  error?: CellError;
  ended = false;
  chunks: Buffer[] = [];
  window = WINDOW;
  private eaten = 0;
  private wakers: (() => void)[] = [];
  private readonly timer: NodeJS.Timeout;
  private readonly signal?: Signal;
  private readonly aborted = () => this.giveUp(aborted());

  constructor(conn: Conn, number: number, timeout: number, signal?: Signal) {
    this.conn = conn;
    this.number = number;
    this.timer = setTimeout(() => this.giveUp(new CellError("timed out", `not answered within ${timeout} ms`)), timeout);
    this.signal = signal;
    signal?.addEventListener("abort", this.aborted);
  }

  private giveUp(error: CellError): void {
    this.fail(error);
    this.conn.send(CANCEL, this.number);
    this.conn.calls.delete(this.number);
  }

  take(kind: number, more: boolean, header: Header, payload: Buffer): void {
    if (kind === REPLY && !this.header) {
      this.header = header;
      this.payload = payload;
      this.ended = !more;
    } else if (kind === CHUNK) {
      this.chunks.push(payload);
    } else if (kind === END) {
      this.ended = true;
    } else if (kind === CREDIT && payload.length === 4) {
      this.window += payload.readUInt32BE(0);
    }
    if (header.get(8)) this.error ??= errorOf(header, payload);
    if (this.error) this.ended = true;
    this.wake();
  }

  fail(error: CellError): void {
    this.error ??= error;
    this.ended = true;
    this.wake();
  }

  private wake(): void {
    if (this.ended) {
      clearTimeout(this.timer);
      this.signal?.removeEventListener("abort", this.aborted);
    }
    for (const waker of this.wakers.splice(0)) waker();
  }

  private async until(done: () => boolean): Promise<void> {
    while (!done()) await new Promise<void>((resolve) => this.wakers.push(resolve));
  }

  async reply(): Promise<void> {
    await this.until(() => this.header !== undefined || this.error !== undefined);
    if (this.error) throw this.error;
  }

  /** The whole reply, as it comes. */
  async *body(): AsyncGenerator<Buffer> {
    try {
      if (this.payload.length > 0) yield this.payload;
      for (;;) {
        await this.until(() => this.chunks.length > 0 || this.ended);
        const chunk = this.chunks.shift();
        if (chunk === undefined) {
          if (this.error) throw this.error;
          return;
        }
        this.eaten += chunk.length + 12;
        if (this.eaten >= WINDOW / 2 && !this.ended) {
          const credit = Buffer.alloc(4);
          credit.writeUInt32BE(this.eaten);
          this.eaten = 0;
          this.conn.send(CREDIT, this.number, credit);
        }
        yield chunk;
      }
    } finally {
      if (!this.ended) {
        this.fail(new CellError("canceled", "the reply was not read to its end"));
        this.conn.send(CANCEL, this.number);
      }
      this.conn.calls.delete(this.number);
    }
  }

  async sendBody(body: AsyncIterable<Uint8Array> | Iterable<Uint8Array>): Promise<void> {
    try {
      for await (const whole of body) {
        if (!(whole instanceof Uint8Array)) throw new TypeError("it gives what is not bytes");
        for (let from = 0; from < whole.length; from += CHUNK_SIZE - 12) {
          const piece = whole.subarray(from, from + CHUNK_SIZE - 12);
          await this.until(() => this.window >= piece.length + 12 || this.ended);
          if (this.ended) return;
          this.window -= piece.length + 12;
          this.conn.send(CHUNK, this.number, piece);
        }
      }
      if (!this.ended) this.conn.send(END, this.number);
    } catch (e) {
      this.fail(new CellError("failed", `the body cannot be read: ${String(e)}`));
      this.conn.send(CANCEL, this.number);
    }
  }
}

/** One connection to a nucleus. */
class Conn {
  leaving = false;
  closed = false;
  readonly calls = new Map<number, Call>();
  private readonly socket: net.Socket;
  private next = 1;
  private rest: Buffer = Buffer.alloc(0);

  private constructor(socket: net.Socket, madeFor: string) {
    this.socket = socket;
    socket.on("data", (data: Buffer) => this.read(data));
    socket.on("error", () => undefined); // close follows
    socket.on("close", () => this.lost("the nucleus closed the connection"));
    const hello = new Map<number, unknown>([[1, [1]], [3, [1]], [8, "celld-typescript-client"]]);
    if (madeFor) hello.set(13, Buffer.from(madeFor, "hex")); // so that the cell knows whom a change would break
    this.send(HELLO, 0, cbor(hello));
  }

  static open(directory: string, madeFor: string): Promise<Conn> {
    let name = path.join(path.resolve(directory), "run", "cell.sock");
    let handle: number | undefined;
    if (Buffer.byteLength(name) > 100) { // more than fits into a socket's address
      handle = fs.openSync(path.dirname(name), "r");
      name = `/proc/self/fd/${handle}/cell.sock`;
    }
    return new Promise<Conn>((resolve, reject) => {
      const socket = net.createConnection(name);
      const refused = (e: Error) =>
        reject(new CellError("unavailable", `no nucleus answers in ${directory}: ${e.message}`, `cellctl start ${directory}`));
      socket.once("error", refused);
      socket.once("connect", () => {
        socket.off("error", refused);
        resolve(new Conn(socket, madeFor));
      });
    }).finally(() => {
      if (handle !== undefined) fs.closeSync(handle);
    });
  }

  send(kind: number, number: number, payload: Uint8Array = Buffer.alloc(0), header?: Header, more = false): void {
    const map = header ? cbor(header) : Buffer.alloc(0);
    const frame = Buffer.alloc(header ? 14 : 12);
    frame.writeUInt32BE(payload.length + (header ? 2 + map.length : 0), 0);
    frame[4] = kind;
    frame[5] = (header ? 1 : 0) | (more ? 2 : 0);
    frame.writeUInt32BE(number, 8);
    if (header) frame.writeUInt16BE(map.length, 12);
    if (!this.socket.destroyed) this.socket.write(Buffer.concat([frame, map, payload]));
  }

  begin(header: Header, payload: Uint8Array, timeout: number, more: More): Call {
    const call = new Call(this, this.next, timeout, more.signal);
    this.calls.set(this.next, call);
    this.next = (this.next + 2) % 4294967296;
    this.send(REQUEST, call.number, payload, header, more.body !== undefined);
    return call;
  }

  close(): void {
    this.leaving = true;
    this.socket.destroy();
  }

  private lost(why: string): void {
    this.leaving = true;
    for (const call of this.calls.values()) if (!call.ended) call.fail(new CellError("may have run", why));
    this.calls.clear();
    this.closed = true;
    this.socket.destroy();
  }

  private read(data: Buffer): void {
    this.rest = this.rest.length > 0 ? Buffer.concat([this.rest, data]) : data;
    try {
      while (this.rest.length >= 12) {
        const size = this.rest.readUInt32BE(0);
        if (size > MAX_FRAME) throw new CellError("too large", `a frame of ${size} bytes`);
        if (this.rest.length < 12 + size) return;
        const [kind, flags, number] = [this.rest[4], this.rest[5], this.rest.readUInt32BE(8)];
        const body = this.rest.subarray(12, 12 + size);
        this.rest = this.rest.subarray(12 + size);
        this.take(kind, flags, number, body);
      }
    } catch (e) {
      this.lost(String(e));
    }
  }

  private take(kind: number, flags: number, number: number, body: Buffer): void {
    let header: Header = new Map();
    if (flags & 1) {
      const size = body.readUInt16BE(0);
      header = uncbor(body.subarray(2, 2 + size), { pos: 0 }) as Header;
      body = body.subarray(2 + size);
    }
    if (kind === PING) this.send(PONG, number, body);
    else if (kind === GOAWAY) this.leaving = true;
    else if (kind === REPLY || kind === CHUNK || kind === END || kind === CREDIT) {
      this.calls.get(number)?.take(kind, (flags & 2) !== 0, header, body);
    } else if (kind === EVENT) return;
  }
}

interface More extends KeyedOptions {
  codec?: number;
  body?: AsyncIterable<Uint8Array> | Iterable<Uint8Array>;
}

class Caller {
  private readonly directory: string;
  private readonly target: string;
  private readonly timeout: number;
  private opening?: Promise<Conn>;
  private conn?: Conn; // what opening has become
  private readonly conns = new Set<Conn>(); // that one, and those before on which a call has not ended

  /** Calls one cell. directory is the cell's own, or, with target, that of a cell through whose nucleus the target is
   * called: a CID, an IPNS name, a domain, or a name of its [deps]. timeout is in milliseconds. */
  constructor(directory: string, options: { target?: string; timeout?: number } = {}) {
    this.directory = directory;
    this.target = options.target ?? "";
    this.timeout = options.timeout ?? 10000;
  }

  /** Ends the connection. Calls in flight fail. */
  async close(): Promise<void> {
    const opening = this.opening;
    this.opening = this.conn = undefined;
    await opening?.catch(() => undefined);
    for (const conn of this.conns) conn.close();
    this.conns.clear();
  }

  /** Nothing is waited for before opening is set: calls that begin together share one connection. */
  private connected(): Promise<Conn> {
    if (this.opening && !this.conn?.leaving) return this.opening;
    const opening: Promise<Conn> = Conn.open(this.directory, this.target ? "" : schemaHash).then(
      (conn) => {
        for (const old of this.conns) if (old.closed) this.conns.delete(old);
        this.conns.add(conn);
        if (this.opening === opening) this.conn = conn;
        return conn;
      },
      (e) => {
        if (this.opening === opening) this.opening = undefined;
        throw e;
      },
    );
    this.conn = undefined;
    this.opening = opening;
    return opening;
  }

  protected async $call(name: string, payload: Uint8Array, again: boolean, more: More): Promise<Call> {
    const most = Math.min(more.timeout ?? this.timeout, MAX_TIMEOUT);
    if (Number.isNaN(most)) throw new CellError("bad input", "the timeout is not a number");
    const deadline = Date.now() + most;
    atMost("target", this.target, MAX_TARGET);
    atMost("key", more.key ?? "", MAX_KEY);
    if (payload.length > MAX_ARGS) throw new CellError("too large", `arguments of ${payload.length} bytes, the limit is ${MAX_ARGS}`);
    const header: Header = new Map<number, unknown>([[1, name]]);
    if (this.target) header.set(2, this.target);
    header.set(3, 0);
    if (more.key) header.set(6, Buffer.from(more.key));
    if (this.target) header.set(7, new Map([["made_for", schemaHash]]));
    if (more.codec !== 0) header.set(10, 1);
    for (let tries = 0; ; tries++) {
      const conn = await this.connected();
      if (more.signal?.aborted) throw aborted();
      const timeout = Math.max(deadline - Date.now(), 1);
      header.set(3, Math.round(timeout * 1000));
      const call = conn.begin(header, payload, timeout, more);
      if (more.body !== undefined) void call.sendBody(more.body); // while the reply is read; it ends with the call
      try {
        await call.reply();
        return call;
      } catch (e) {
        conn.calls.delete(call.number);
        const kind = (e as CellError).kind;
        const lost = conn.leaving && (kind === "unavailable" || (kind === "may have run" && again));
        if (!lost || tries === 3 || more.body !== undefined || Date.now() >= deadline) throw e;
      }
    }
  }

  protected async $json<T>(name: string, args: unknown, again: boolean, of: Reader<T>, more: More): Promise<T> {
    const call = await this.$call(name, written(args), again, more);
    const codec = call.header?.get(10);
    const data = await whole(call);
    if (codec !== 1) throw new CellError("unsupported", "the reply is not JSON");
    try {
      return of(parsed(data.toString("utf8")), "");
    } catch (e) {
      if (e instanceof CellError) throw e;
      throw new CellError("bad reply", clean(`the reply cannot be read: ${String(e)}`)); // no JSON, or nested too deep
    }
  }

  protected async $raw(name: string, data: Uint8Array, again: boolean, more: More): Promise<Uint8Array> {
    return whole(await this.$call(name, data, again, { ...more, codec: 0 }));
  }

  protected async $stream(name: string, args: unknown, again: boolean, more: More): Promise<AsyncGenerator<Uint8Array>> {
    return (await this.$call(name, written(args), again, more)).body();
  }
}

async function whole(call: Call): Promise<Buffer> {
  const pieces: Buffer[] = [];
  let size = 0;
  for await (const piece of call.body()) {
    size += piece.length;
    if (size > MAX_REPLY) throw new CellError("too large", `a reply of more than ${MAX_REPLY} bytes`);
    pieces.push(piece);
  }
  return Buffer.concat(pieces);
}

function atMost(what: string, text: string, most: number): void {
  const size = Buffer.byteLength(text);
  if (size > most) throw new CellError("bad input", `a ${what} of ${size} bytes, the limit is ${most}`);
}

function newKey(): string {
  return randomBytes(16).toString("hex");
}

type Reader<T> = (v: unknown, where: string) => T;

function misfit(where: string, want: string, v: unknown): CellError {
  return new CellError("bad reply", clean(`${where || "the reply"} is ${v === null ? "null" : typeof v}, not ${want}`));
}

const toAny: Reader<unknown> = (v) => v;

const toBoolean: Reader<boolean> = (v, where) => {
  if (typeof v !== "boolean") throw misfit(where, "true or false", v);
  return v;
};

const toNumber: Reader<number> = (v, where) => {
  const number = typeof v === "bigint" ? Number(v) : v;
  if (typeof number !== "number" || !Number.isFinite(number)) throw misfit(where, "a number", v);
  return number;
};

/** An integer past 2^53 cannot be told from its neighbours here, and is refused. */
function toInteger(bits: number, signed = true): Reader<number> {
  const [low, high] = signed ? [-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] : [0, 2 ** bits - 1];
  return (v, where) => {
    if (!Number.isSafeInteger(v)) throw misfit(where, "an integer below 2^53", v);
    if ((v as number) < low || (v as number) > high) throw misfit(where, `one of ${low} to ${high}`, v);
    return v as number;
  };
}

const toText: Reader<string> = (v, where) => {
  if (typeof v !== "string") throw misfit(where, "text", v);
  return v;
};

const toTime: Reader<string> = (v, where) => {
  const form = /^(\d{4}-\d\d-\d\d)T\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$/;
  if (!form.test(toText(v, where)) || Number.isNaN(Date.parse(v as string))) throw misfit(where, "a time", v);
  return v as string;
};

const toBytes: Reader<Uint8Array> = (v, where) => {
  if (v === null) return new Uint8Array();
  const data = Buffer.from(toText(v, where), "base64");
  if (data.toString("base64") !== v) throw misfit(where, "base64", v); // from() passes over what is none
  return new Uint8Array(data);
};

function toOneOf<T extends string>(...values: T[]): Reader<T> {
  return (v, where) => {
    if (!values.includes(v as T)) throw misfit(where, `one of ${values.join(", ")}`, v);
    return v as T;
  };
}

function toArray<T>(of: Reader<T>, length?: number): Reader<T[]> {
  return (v, where) => {
    if (v === null && length === undefined) return [];
    if (!Array.isArray(v) || v.length !== (length ?? v.length)) throw misfit(where, length === undefined ? "a list" : `a list of ${length}`, v);
    return v.map((x, i) => of(x, `${where}[${i}]`));
  };
}

function toRecord<T>(of: Reader<T>): Reader<Record<string, T>> {
  return (v, where) => {
    if (v === null) return {};
    return Object.fromEntries(Object.entries(toObject(v, where)).map(([k, x]) => [k, of(x, `${where}.${k}`)]));
  };
}

function orNull<T>(of: Reader<T>): Reader<T | null> {
  return (v, where) => (v === null ? null : of(v, where));
}

function toObject(v: unknown, where: string): Record<string, unknown> {
  if (typeof v !== "object" || v === null || Array.isArray(v)) throw misfit(where, "an object", v);
  return v as Record<string, unknown>;
}

function member<T>(v: Record<string, unknown>, key: string, of: Reader<T>, where: string): T {
  const at = where ? `${where}.${key}` : key;
  if (!Object.hasOwn(v, key)) throw new CellError("bad reply", clean(`${at} is missing`));
  return of(v[key], at);
}

/** Gives a member in an object of its own, which is empty if there is none: what is not there is not undefined. */
function optional<K extends string, T>(v: Record<string, unknown>, key: K, of: Reader<T>, where: string): { [P in K]?: T } {
  return Object.hasOwn(v, key) ? ({ [key]: of(v[key], where ? `${where}.${key}` : key) } as { [P in K]?: T }) : {};
}

/** Makes JSON of arguments. */
function written(args: unknown): Buffer {
  try {
    return Buffer.from(json(args) ?? "null");
  } catch (e) {
    if (e instanceof RangeError) throw new CellError("bad input", "the arguments are nested too deep, or hold themselves");
    throw e;
  }
}

/** Gives JSON: bytes are base64, integers have all their digits, what is undefined is left out. */
function json(v: unknown): string | undefined {
  if (v === undefined) return undefined;
  if (typeof v === "bigint") return v.toString();
  if (typeof v === "number") {
    if (!Number.isFinite(v)) throw new CellError("bad input", `${v} is no number of JSON`);
    return Number.isInteger(v) && Math.abs(v) < 2 ** 64 ? BigInt(v).toString() : JSON.stringify(v);
  }
  if (typeof v === "string" || typeof v === "boolean" || v === null) return JSON.stringify(v);
  if (v instanceof Uint8Array) return JSON.stringify(Buffer.from(v).toString("base64"));
  if (Array.isArray(v)) return `[${Array.from(v, (x) => json(x) ?? "null").join(",")}]`;
  if (typeof v !== "object" || v instanceof Map || v instanceof Set || v instanceof ArrayBuffer || ArrayBuffer.isView(v)) {
    throw new CellError("bad input", `${Object.prototype.toString.call(v)} is nothing of JSON`);
  }
  const own = (v as { toJSON?: unknown }).toJSON; // as a Date has it
  if (typeof own === "function") return json(own.call(v));
  const members = Object.entries(v).map(([k, x]) => [k, json(x)]);
  return `{${members.filter(([, x]) => x !== undefined).map(([k, x]) => `${JSON.stringify(k)}:${x}`).join(",")}}`;
}

/** Reads JSON. An integer that is another one as a number becomes a bigint. */
function parsed(text: string): unknown {
  const v = JSON.parse(text) as unknown;
  if (!/\d{16}/.test(text)) return v;
  const large: bigint[] = [];
  const mark = randomBytes(16).toString("hex"); // nobody can have written it
  const token = /-?\d[\d.eE+-]*/y;
  let [marked, from] = ["", 0];
  for (let at = 0; at < text.length; at++) {
    if (text[at] === '"') at = textEnd(text, at);
    token.lastIndex = at;
    const number = token.exec(text)?.[0];
    if (number === undefined) continue;
    if (/^-?\d{16,20}$/.test(number) && String(Number(number)) !== number) {
      marked += `${text.slice(from, at)}"${mark}${large.push(BigInt(number)) - 1}"`;
      from = at + number.length;
    }
    at += number.length - 1;
  }
  if (large.length === 0) return v;
  marked += text.slice(from);
  return JSON.parse(marked, (_, x) => (typeof x === "string" && x.startsWith(mark) ? large[Number(x.slice(mark.length))] : x));
}

/** Gives where the text ends that begins at a quote: before it stands an even number of backslashes. */
function textEnd(json: string, begin: number): number {
  for (let end = json.indexOf('"', begin + 1); ; end = json.indexOf('"', end + 1)) {
    let escapes = end;
    while (json[escapes - 1] === "\\") escapes--;
    if ((end - escapes) % 2 === 0) return end;
  }
}
