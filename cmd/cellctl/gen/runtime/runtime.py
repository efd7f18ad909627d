import base64
import dataclasses
import datetime
import enum
import io
import json
import os
import re
import secrets
import socket
import struct
import threading
import time
import typing

KINDS = (
    "failed", "failed", "bad input", "not found", "denied", "overloaded", "unavailable", "timed out", "canceled",
    "may have run", "function error", "too large", "unsupported", "corrupt", "incompatible", "bad reply",
)


class CellError(Exception):
    """What became of a call that has no reply. kind is a word of KINDS, hint says what to try, retry_after is in
    seconds."""

    def __init__(self, kind: str, message: str, hint: str = "", retry_after: float = 0.0):
        super().__init__(message)
        self.kind, self.hint, self.retry_after = kind, hint, retry_after


_REQUEST, _REPLY, _EVENT, _CHUNK, _END, _CANCEL, _PING, _PONG, _HELLO, _GOAWAY, _CREDIT = range(1, 12)
_MAX_FRAME, _MAX_ARGS, _CHUNK_SIZE, _WINDOW = 1 << 20, 256 << 10, 64 << 10, 256 << 10
_MAX_TARGET, _MAX_KEY, _MAX_REPLY = 512, 64, 64 << 20
_MAX_TIMEOUT = 31 * 86400.0  # seconds; what is longer than that is as long


def _head(major: int, n: int) -> bytes:
    if n < 24:
        return bytes([major << 5 | n])
    for info, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if n < 1 << 8 * size:
            return bytes([major << 5 | info]) + n.to_bytes(size, "big")
    raise CellError("bad input", "a number of more than 64 bits")


def _cbor(v: typing.Any) -> bytes:
    """Encodes what a header and a hello have: numbers, texts, bytes, lists, maps with ascending keys."""
    if isinstance(v, int):
        return _head(0, v)
    if isinstance(v, bytes):
        return _head(2, len(v)) + v
    if isinstance(v, str):
        text = v.encode()
        return _head(3, len(text)) + text
    if isinstance(v, list):
        return _head(4, len(v)) + b"".join(_cbor(x) for x in v)
    return _head(5, len(v)) + b"".join(_cbor(k) + _cbor(x) for k, x in v.items())


def _uncbor(data: bytes, pos: int = 0, depth: int = 0) -> typing.Tuple[typing.Any, int]:
    if pos >= len(data) or depth > 8:
        raise CellError("failed", "a header that is cut off, or nested too deep")
    major, info, pos = data[pos] >> 5, data[pos] & 31, pos + 1
    n = info
    if 24 <= info <= 27:
        size = 1 << info - 24
        n, pos = int.from_bytes(data[pos : pos + size], "big"), pos + size
    if major == 7 and info < 24:
        return {20: False, 21: True}.get(info), pos
    if info > 27 or major > 5:
        raise CellError("failed", "a header of an unknown form")
    if major == 0:
        return n, pos
    if major == 1:
        return -1 - n, pos
    if n > len(data) - pos:
        raise CellError("failed", "a header that is cut off")
    if major in (2, 3):
        raw = data[pos : pos + n]
        return (raw if major == 2 else raw.decode("utf-8", "replace")), pos + n
    if major == 4:
        items = []
        for _ in range(n):
            item, pos = _uncbor(data, pos, depth + 1)
            items.append(item)
        return items, pos
    pairs = {}
    for _ in range(n):
        key, pos = _uncbor(data, pos, depth + 1)
        if not isinstance(key, (int, str)):
            raise CellError("failed", "a header of an unknown form")
        pairs[key], pos = _uncbor(data, pos, depth + 1)
    return pairs, pos


class _Body(io.RawIOBase):
    """The body of a reply. It must be closed, or read to its end."""

    def __init__(self, call: "_Call"):
        super().__init__()
        self._call, self._rest = call, b""

    def readable(self) -> bool:
        return True

    def readinto(self, into: typing.Any) -> int:
        if not self._rest:
            self._rest = self._call.next_chunk()
        n = min(len(into), len(self._rest))
        into[:n], self._rest = self._rest[:n], self._rest[n:]
        return n

    def close(self) -> None:
        if not self.closed:
            self._call.give_up()
        super().close()


class _Call:
    """One call. ended: nothing more of it comes or goes; over: it was the callee that ended it."""

    def __init__(self, conn: "_Conn", number: int, deadline: float):
        self.conn, self.number, self.deadline = conn, number, deadline
        self.cond = threading.Condition()
        self.header: typing.Optional[dict] = None
        self.payload, self.ended, self.over = b"", False, False
        self.error: typing.Optional[CellError] = None
        self.chunks: typing.List[bytes] = []
        self.window, self.eaten = _WINDOW, 0

    def take(self, kind: int, more: bool, header: dict, payload: bytes) -> None:
        with self.cond:
            if kind == _REPLY and self.header is None:
                self.header, self.payload, self.over = header, payload, not more
            elif kind == _CHUNK:
                self.chunks.append(payload)
            elif kind == _END:
                self.over = True
            elif kind == _CREDIT and len(payload) == 4:
                self.window += int.from_bytes(payload, "big")
            if header.get(8):
                self.error, self.over = self.error or _error(header, payload), True
            self.ended = self.ended or self.over
            self.cond.notify_all()

    def fail(self, error: CellError) -> None:
        with self.cond:
            self.error, self.ended = self.error or error, True
            self.cond.notify_all()

    def until(self, done: typing.Callable[[], typing.Any], late: str) -> None:
        """Waits, with cond held, until done gives true. When the call's time is over first, the call fails."""
        if not self.cond.wait_for(done, max(self.deadline - time.monotonic(), 0)):
            self.fail(CellError("timed out", late))

    def wait(self) -> None:
        try:
            with self.cond:
                self.until(lambda: self.header is not None or self.error, "there was no reply in time")
        except BaseException:  # an interrupt: nobody waits for the reply any more
            self.give_up()
            raise
        if self.error:
            self.give_up()
            raise self.error

    def next_chunk(self) -> bytes:
        if self.payload:
            first, self.payload = self.payload, b""
            return first
        with self.cond:
            self.until(lambda: self.chunks or self.ended, "the reply did not end in time")
            if not self.chunks:
                if self.error:
                    raise self.error
                return b""
            chunk = self.chunks.pop(0)
        self.eaten += len(chunk) + 12
        if self.eaten >= _WINDOW // 2 and not self.ended:
            self.conn.send(_CREDIT, self.number, self.eaten.to_bytes(4, "big"))
            self.eaten = 0
        return chunk

    def give_up(self) -> None:
        """Ends the call, unless the callee has."""
        self.fail(CellError("canceled", "the reply was not read to its end"))
        if self.conn.forget(self.number) and not self.over:
            try:
                self.conn.send(_CANCEL, self.number)
            except CellError:
                pass  # with the connection, the call has ended

    def send_body(self, body: typing.BinaryIO) -> None:
        try:
            while not self.ended:
                piece = body.read(_CHUNK_SIZE - 12)
                if not piece:
                    if not self.ended:
                        self.conn.send(_END, self.number)
                    return
                with self.cond:
                    self.until(lambda: self.window >= len(piece) + 12 or self.ended, "the callee reads no more of the body")
                    self.window -= len(piece) + 12
                if not self.ended:
                    self.conn.send(_CHUNK, self.number, piece)
        except CellError as e:
            self.fail(e)
        except Exception as e:  # of whatever the body is read from
            self.fail(CellError("failed", "the body cannot be read: %s" % e))
        if self.error:
            self.give_up()


def _error(header: dict, payload: bytes) -> CellError:
    number = header.get(8) or 1
    kind = KINDS[number] if number < len(KINDS) else "failed"
    return CellError(kind, _clean(payload.decode("utf-8", "replace")), _clean(str(header.get(11) or "")), (header.get(9) or 0) / 1000)


def _clean(text: str) -> str:
    """Takes out what could drive a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else " " for c in text)


class _Conn:
    """One connection to a nucleus, with a thread that reads it."""

    def __init__(self, directory: str, timeout: float, made_for: str = ""):
        self.lock, self.calls, self.next, self.leaving, self.closed = threading.Lock(), {}, 1, False, False
        self.writing = threading.Lock()  # not held by who reads: a frame that is not taken must not keep replies away
        self.sock = _connect(directory, timeout)
        hello: dict = {1: [1], 3: [1], 8: "celld-python-client"}
        if made_for:  # so that the cell knows whom a change would break
            hello[13] = bytes.fromhex(made_for)
        self.send(_HELLO, 0, _cbor(hello))
        threading.Thread(target=self._read, daemon=True).start()

    def send(self, kind: int, number: int, payload: bytes = b"", header: typing.Optional[dict] = None, more: bool = False) -> None:
        flags, head = (2 if more else 0), b""
        if header:
            encoded = _cbor(header)
            head, flags = struct.pack(">H", len(encoded)) + encoded, flags | 1
        frame = struct.pack(">IBBHI", len(head) + len(payload), kind, flags, 0, number) + head + payload
        with self.writing:
            try:
                self.sock.sendall(frame)
            except OSError as e:
                self.leaving = True
                raise CellError("may have run", "the connection was lost: %s" % e) from e

    def begin(self, header: dict, payload: bytes, more: bool, deadline: float) -> _Call:
        with self.lock:
            number, self.next = self.next, (self.next + 2) % (1 << 32)
            call = self.calls[number] = _Call(self, number, deadline)
        try:
            self.send(_REQUEST, number, payload, header, more)
        except CellError as e:
            self.forget(number)
            raise CellError("unavailable" if e.kind == "may have run" and not more else e.kind, str(e)) from e
        return call

    def forget(self, number: int) -> bool:
        with self.lock:
            return self.calls.pop(number, None) is not None

    def close(self) -> None:
        self.leaving = True
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.sock.close()

    def _exactly(self, n: int) -> bytes:
        data = b""
        while len(data) < n:
            piece = self.sock.recv(n - len(data))
            if not piece:
                raise OSError("the nucleus closed the connection")
            data += piece
        return data

    def _read(self) -> None:
        why = "the nucleus closed the connection"
        try:
            while True:
                size, kind, flags, _, number = struct.unpack(">IBBHI", self._exactly(12))
                if size > _MAX_FRAME:
                    raise OSError("a frame of %d bytes" % size)
                data, header = self._exactly(size), {}
                if flags & 1:
                    (n,) = struct.unpack_from(">H", data)
                    header, data = _uncbor(data[2 : 2 + n])[0], data[2 + n :]
                if kind == _PING:
                    self.send(_PONG, number, data)
                elif kind == _GOAWAY:
                    self.leaving = True
                elif kind not in (_HELLO, _EVENT, _PONG, _REQUEST):
                    with self.lock:
                        call = self.calls.get(number)
                    if call:
                        call.take(kind, bool(flags & 2), header, data)
                        if call.ended:
                            self.forget(number)
        except (OSError, CellError, struct.error, AttributeError) as e:
            why = str(e)
        self.leaving = True
        with self.lock:
            left, self.calls = list(self.calls.values()), {}
        for call in left:
            call.fail(CellError("may have run", why))
        self.sock.close()
        self.closed = True


def _connect(directory: str, timeout: float) -> socket.socket:
    path = os.path.join(os.path.abspath(directory), "run", "cell.sock")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(timeout)
    handle = None
    try:
        if len(path.encode()) > 100:  # more than fits into a socket's address
            handle = os.open(os.path.dirname(path), os.O_RDONLY)
            path = "/proc/self/fd/%d/cell.sock" % handle
        sock.connect(path)
    except OSError as e:
        sock.close()
        raise CellError("unavailable", "no nucleus answers in %s: %s" % (directory, e), "cellctl start %s" % directory) from e
    finally:
        if handle is not None:
            os.close(handle)
    sock.settimeout(None)
    return sock


class _Caller:
    """Calls one cell. directory is the cell's own, or, with target, that of a cell through whose nucleus the target is
    called: a CID, an IPNS name, a domain, or a name of its [deps]."""

    def __init__(self, directory: str, target: str = "", timeout: float = 10.0):
        self._directory, self._target, self._timeout = directory, target, timeout
        self._lock = threading.Lock()
        self._conn: typing.Optional[_Conn] = None
        self._conns: typing.List[_Conn] = []  # that one, and those before on which a call has not ended

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self) -> None:
        """Ends the connection. Calls in flight fail."""
        with self._lock:
            conns, self._conns, self._conn = self._conns, [], None
        for conn in conns:
            conn.close()

    def _call(
        self, function: str, payload: bytes, again: bool, codec: int = 1, key: str = "", body: typing.Optional[typing.BinaryIO] = None,
        timeout: typing.Optional[float] = None,
    ) -> _Call:
        timeout = self._timeout if timeout is None else timeout
        if timeout != timeout:
            raise CellError("bad input", "the timeout is not a number")
        deadline = time.monotonic() + min(timeout, _MAX_TIMEOUT)
        for what, size, most in (("target", len(self._target.encode()), _MAX_TARGET), ("key", len(key.encode()), _MAX_KEY)):
            if size > most:
                raise CellError("bad input", "a %s of %d bytes, the limit is %d" % (what, size, most))
        if len(payload) > _MAX_ARGS:
            raise CellError("too large", "arguments of %d bytes, the limit is %d" % (len(payload), _MAX_ARGS))
        header: dict = {1: function}
        if self._target:
            header[2] = self._target
        header[3] = 0
        if key:
            header[6] = key.encode()
        if self._target:
            header[7] = {"made_for": SCHEMA_HASH}
        if codec:
            header[10] = codec
        for tries in range(4):
            left = max(deadline - time.monotonic(), 1e-6)
            header[3] = max(int(left * 1e6), 1)
            conn = self._connected(left)
            try:
                call = conn.begin(header, payload, body is not None, deadline)
                if body is None:
                    call.wait()
                else:
                    _wait_with(call, body)
                return call
            except CellError as e:
                lost = conn.leaving and (e.kind == "unavailable" or e.kind == "may have run" and again)
                if not lost or tries == 3 or body is not None or time.monotonic() >= deadline:
                    raise
        raise AssertionError("not reached")

    def _connected(self, timeout: float) -> _Conn:
        with self._lock:
            if self._conn is None or self._conn.leaving:
                self._conn = _Conn(self._directory, timeout, "" if self._target else SCHEMA_HASH)
                self._conns = [c for c in self._conns if not c.closed] + [self._conn]
            return self._conn

    def _json(self, function: str, args: typing.Any, again: bool, read: typing.Callable, **more: typing.Any) -> typing.Any:
        call = self._call(function, _dumps(args), again, **more)
        data = _whole(call)
        if call.header.get(10) != 1:
            raise CellError("unsupported", "the reply is not JSON")
        try:
            return read(json.loads(data, parse_constant=_no_number), "")
        except (ValueError, RecursionError) as e:
            raise CellError("bad reply", "the reply cannot be read: %s" % _clean(str(e))) from e

    def _raw(self, function: str, data: bytes, again: bool, **more: typing.Any) -> bytes:
        return _whole(self._call(function, data, again, codec=0, **more))

    def _stream(self, function: str, args: typing.Any, again: bool, **more: typing.Any) -> typing.BinaryIO:
        return typing.cast(typing.BinaryIO, io.BufferedReader(_Body(self._call(function, _dumps(args), again, **more))))


def _wait_with(call: _Call, body: typing.BinaryIO) -> None:
    """Waits for the reply while the body is sent: a function may answer as it reads. When the call has failed, nobody
    reads the body any more, unless one read of it takes longer than a second."""
    sender = threading.Thread(target=call.send_body, args=(body,), daemon=True)
    sender.start()
    try:
        call.wait()
    except CellError:
        sender.join(1)
        raise


def _whole(call: _Call) -> bytes:
    with _Body(call) as body:
        data = bytearray()
        while True:
            piece = body.read(_CHUNK_SIZE)
            if not piece:
                return bytes(data)
            data += piece
            if len(data) > _MAX_REPLY:
                raise CellError("too large", "a reply of more than %d bytes" % _MAX_REPLY)


def _dumps(args: typing.Any) -> bytes:
    try:
        return json.dumps(_from(args), ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as e:  # a number that is none, text that is none, a circle
        raise CellError("bad input", "the arguments are no JSON: %s" % e) from e


def _no_number(name: str) -> typing.Any:
    raise ValueError(name + " is no number of JSON")


def _misfit(where: str, want: str, v: typing.Any) -> CellError:
    return CellError("bad reply", _clean("%s is %s, not %s" % (where or "the reply", type(v).__name__, want)))


def _is(want: typing.Any, name: str) -> typing.Callable:
    def check(v: typing.Any, where: str) -> typing.Any:
        if not isinstance(v, want) or isinstance(v, bool) and want is not bool:
            raise _misfit(where, name, v)
        return v

    return check


_to_bool, _to_str = _is(bool, "true or false"), _is(str, "text")


def _to_int(bits: int, signed: bool = True) -> typing.Callable:
    """A whole number is an integer, however it is written."""
    low, high = (-1 << bits - 1, (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)

    def check(v: typing.Any, where: str) -> int:
        if isinstance(v, float) and v.is_integer() and abs(v) <= 1 << 53:
            v = int(v)
        if low <= _is(int, "an integer")(v, where) <= high:
            return v
        raise CellError("bad reply", _clean("%s is %d, not one of %d to %d" % (where or "the reply", v, low, high)))

    return check


def _to_any(v: typing.Any, where: str) -> typing.Any:
    return v


def _to_float(v: typing.Any, where: str) -> float:
    try:
        number = float(_is((int, float), "a number")(v, where))
    except OverflowError:
        number = float("inf")
    if number - number != 0:
        raise _misfit(where, "a number of 64 bits", v)
    return number


def _to_bytes(v: typing.Any, where: str) -> bytes:
    if v is None:  # none, as with lists: Go's nil
        return b""
    try:
        return base64.b64decode(_to_str(v, where), validate=True)
    except ValueError:
        raise _misfit(where, "base64", v) from None


def _to_time(v: typing.Any, where: str) -> datetime.datetime:
    """Times are exact to the microsecond: that is what datetime has."""
    m = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)", _to_str(v, where))
    if not m:
        raise _misfit(where, "a time", v)
    zone = "+00:00" if m[3] == "Z" else m[3]
    try:
        return datetime.datetime.fromisoformat(m[1] + "." + (m[2] or "0")[:6].ljust(6, "0") + zone)
    except ValueError:  # no such day
        raise _misfit(where, "a time", v) from None


def _to_enum(of: typing.Any) -> typing.Callable:
    def check(v: typing.Any, where: str) -> typing.Any:
        try:
            return of(v)
        except ValueError:
            raise _misfit(where, "one of " + ", ".join(e.value for e in of), v) from None

    return check


def _to_list(of: typing.Callable, length: typing.Optional[int] = None) -> typing.Callable:
    def check(v: typing.Any, where: str) -> list:
        if v is None and length is None:
            return []
        items = [of(x, "%s[%d]" % (where, i)) for i, x in enumerate(_is(list, "a list")(v, where))]
        if length is not None and len(items) != length:
            raise _misfit(where, "a list of %d" % length, v)
        return items

    return check


def _to_map(of: typing.Callable) -> typing.Callable:
    def check(v: typing.Any, where: str) -> dict:
        if v is None:
            return {}
        return {k: of(x, "%s.%s" % (where, k)) for k, x in _is(dict, "an object")(v, where).items()}

    return check


def _or_none(of: typing.Callable) -> typing.Callable:
    return lambda v, where: None if v is None else of(v, where)


def _field(v: dict, key: str, of: typing.Callable, where: str, need: bool) -> typing.Any:
    at = where + "." + key if where else key
    if v.get(key) is None and key not in v:
        if need:
            raise CellError("bad reply", _clean("%s is missing" % at))
        return None
    return of(v[key], at)


def _from(v: typing.Any) -> typing.Any:
    """Makes JSON of arguments."""
    if dataclasses.is_dataclass(v) and not isinstance(v, type):
        return v._json()
    if isinstance(v, enum.Enum):
        return v.value
    if isinstance(v, datetime.datetime):
        if v.tzinfo is None:
            raise CellError("bad input", "a time without a zone")
        return v.isoformat().replace("+00:00", "Z")
    if isinstance(v, (bytes, bytearray)):
        return base64.b64encode(v).decode()
    if isinstance(v, (list, tuple)):
        return [_from(x) for x in v]
    if isinstance(v, dict):
        for k in v:
            if not isinstance(k, str):
                raise CellError("bad input", "a key is %s, not text" % type(k).__name__)
        return {k: _from(x) for k, x in v.items()}
    return v
