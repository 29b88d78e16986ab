"""The protocol of SPEC.md in Python, written from that text and sharing nothing with the Rust code.

Every function raises Refused(code) or gives what SPEC.md says. It is made to be read beside SPEC.md and to make vectors; it
keeps no secrets safe and is slow.
"""

import base64
import functools
import hashlib
import ipaddress
import re
from datetime import datetime, timezone

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat


class Refused(Exception):
    def __init__(self, code, why=""):
        super().__init__(f"{code}: {why}")
        self.code = code


def sha256(data):
    return hashlib.sha256(data).digest()


def hexdigest(data):
    return hashlib.sha256(data).hexdigest()


def u8(n):
    return n.to_bytes(1, "big")


def u16(n):
    return n.to_bytes(2, "big")


def u32(n):
    return n.to_bytes(4, "big")


def u64(n):
    return n.to_bytes(8, "big")


def b64(data):
    return base64.b64encode(data).decode("ascii")


def unb64(text):
    """M44: gives None for every spelling but one."""
    if not re.fullmatch(r"[A-Za-z0-9+/]*={0,2}", text) or len(text) % 4:
        return None
    data = base64.b64decode(text.encode("ascii"))
    return data if b64(data) == text else None


U64_MAX = 2**64 - 1
COMMAND_MAX, STOP_MAX = 32768, 4096

# ---------------------------------------------------------------------------------------------------- 2 strict JSON


class Number(int):
    """A JSON number; Python's bool is an int, and a JSON boolean is no number."""


ESCAPES = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


class Json:
    """A reader of RFC 8259 that knows M2 to M7."""

    def __init__(self, text):
        self.text, self.at = text, 0

    def bad(self, why):
        raise Refused("bad-document", f"{why} at {self.at}")

    def peek(self):
        return self.text[self.at] if self.at < len(self.text) else ""

    def space(self):
        while self.peek() and self.peek() in " \t\n\r":
            self.at += 1

    def expect(self, char):
        if self.peek() != char:
            self.bad(f"no {char}")
        self.at += 1

    def value(self, level):
        char = self.peek()
        if char == "{":
            return self.object(level + 1)
        if char == "[":
            return self.list(level + 1)
        if char == '"':
            return self.string()
        for word, value in (("true", True), ("false", False), ("null", None)):
            if self.text.startswith(word, self.at):
                self.at += len(word)
                return value
        found = re.compile(r"-?[0-9][0-9.eE+-]*").match(self.text, self.at)
        if not found:
            self.bad("no value")
        self.at = found.end()
        if not re.fullmatch(r"0|[1-9][0-9]*", found.group()) or int(found.group()) > U64_MAX:
            self.bad("no whole number of 64 bits")
        return Number(found.group())

    def object(self, level):
        if level > 8:
            self.bad("too deep")
        self.expect("{")
        found = {}
        self.space()
        while self.peek() != "}":
            if found:
                self.expect(",")
                self.space()
            key = self.string()
            if key in found:
                self.bad("a key stands twice")
            self.space()
            self.expect(":")
            self.space()
            found[key] = self.value(level)
            self.space()
        self.expect("}")
        return found

    def list(self, level):
        if level > 8:
            self.bad("too deep")
        self.expect("[")
        found = []
        self.space()
        while self.peek() != "]":
            if found:
                self.expect(",")
                self.space()
            found.append(self.value(level))
            self.space()
        self.expect("]")
        return found

    def string(self):
        self.expect('"')
        out = []
        while True:
            char = self.peek()
            self.at += 1
            if char == "" or ord(char) < 0x20:
                self.bad("a string that does not end, or a control character")
            if char == '"':
                return "".join(out)
            if char != "\\":
                out.append(char)
                continue
            escape = self.peek()
            self.at += 1
            if escape in ESCAPES and escape:
                out.append(ESCAPES[escape])
            elif escape == "u":
                unit = self.hex4()
                if 0xDC00 <= unit < 0xE000:
                    self.bad("half a surrogate pair")
                if 0xD800 <= unit < 0xDC00:
                    if self.text[self.at : self.at + 2] != "\\u":
                        self.bad("half a surrogate pair")
                    self.at += 2
                    low = self.hex4()
                    if not 0xDC00 <= low < 0xE000:
                        self.bad("half a surrogate pair")
                    unit = 0x10000 + ((unit - 0xD800) << 10) + (low - 0xDC00)
                out.append(chr(unit))
            else:
                self.bad("an unknown escape")

    def hex4(self):
        digits = self.text[self.at : self.at + 4]
        if not re.fullmatch(r"[0-9A-Fa-f]{4}", digits):
            self.bad("an escape without four digits")
        self.at += 4
        return int(digits, 16)


def strict(data):
    """M1 to M7: the one object that the bytes hold."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise Refused("bad-document", "not UTF-8") from None
    reader = Json(text)
    reader.space()
    if reader.peek() != "{":
        reader.bad("no object")
    found = reader.value(0)
    reader.space()
    if reader.at != len(text):
        reader.bad("something after the document")
    return found


class Fields:
    """Takes the keys of an object one by one; `end` refuses the rest (M4)."""

    def __init__(self, found):
        if not isinstance(found, dict):
            raise Refused("bad-document", "no object")
        self.found = dict(found)

    def bad(self, key):
        raise Refused("bad-document", key)

    def has(self, key):
        return key in self.found

    def take(self, key):
        if key not in self.found:
            self.bad(f"no {key}")
        return self.found.pop(key)

    def end(self):
        if self.found:
            self.bad(f"unknown {sorted(self.found)}")

    def string(self, key):
        value = self.take(key)
        return value if isinstance(value, str) else self.bad(key)

    def text(self, key, bound):
        value = self.string(key)
        control = any(ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0 for c in value)
        return self.bad(key) if control or not 1 <= len(value.encode()) <= bound else value

    def word(self, key, bound):
        value = self.text(key, bound)
        return value if re.fullmatch(r"[\x21-\x7e]+", value) else self.bad(key)

    def name(self, key):
        value = self.text(key, 64)
        return value if is_name(value) else self.bad(key)

    def number(self, key, low, high):
        value = self.take(key)
        return value if isinstance(value, Number) and low <= value <= high else self.bad(key)

    def boolean(self, key):
        if not self.has(key):
            return False
        value = self.take(key)
        return value if isinstance(value, bool) else self.bad(key)

    def digest(self, key):
        value = self.string(key)
        return value if is_digest(value) else self.bad(key)

    def scope(self, key):
        value = self.string(key)
        return value if is_scope(value) else self.bad(key)

    def instant(self, key):
        value = instant_ms(self.string(key))
        return self.bad(key) if value is None else value

    def object(self, key):
        return Fields(self.take(key))

    def list(self, key, bound, kind):
        value = self.take(key)
        if not isinstance(value, list) or not 1 <= len(value) <= bound:
            self.bad(key)
        if not all(isinstance(item, kind) for item in value):
            self.bad(key)
        return value

    def digests(self, key, bound):
        value = self.list(key, bound, str)
        if len(set(value)) != len(value) or not all(map(is_digest, value)):
            self.bad(key)
        return value

    def deployment(self):
        value = self.string("deployment")
        name, colon, digest = value.partition(":")
        return value if colon and is_name(name) and is_digest(digest) else self.bad("deployment")

    def tagout(self):
        self.number("tagout", 1, 1)


def is_name(text):
    return re.fullmatch(r"[a-z0-9._-]{1,64}", text) is not None


def is_address(text):
    """M177."""
    host, _, port = text.rpartition(":")
    if not re.fullmatch(r"[1-9][0-9]{0,4}", port) or int(port) > 65535:
        return False
    try:
        if host[:1] == "[" and host[-1:] == "]":
            ip = ipaddress.IPv6Address(host[1:-1])
            return ip.compressed == host[1:-1] and ip.scope_id is None and ip.ipv4_mapped is None and int(ip) != 0
        return int(ipaddress.IPv4Address(host)) != 0
    except ValueError:
        pass
    label = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
    name = re.fullmatch(rf"({label}\.)*{label}", host) is not None
    return name and len(host) <= 253 and not host.rpartition(".")[2].isdigit()


def is_digest(text):
    return re.fullmatch(r"[0-9a-f]{64}", text) is not None


def instant_ms(text):
    """M13, M14."""
    found = re.fullmatch(
        r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.(\d+))?(?:Z|\+00:00)", text, re.ASCII
    )
    if not found:
        return None
    year, month, day, hour, minute, second = (int(part) for part in found.groups()[:6])
    if year < 1970 or second > 60:
        return None
    try:
        moment = datetime(year, month, day, hour, minute, min(second, 59), tzinfo=timezone.utc)
    except ValueError:
        return None
    since = moment - datetime(1970, 1, 1, tzinfo=timezone.utc)
    return (since.days * 86400 + since.seconds) * 1000 + int(((found.group(7) or "") + "000")[:3])


# ---------------------------------------------------------------------------------------------------- 3 scopes


def is_scope(text):
    """M19."""
    if text == "*":
        return True
    parts = text.split("/")
    segment = re.compile(r"[A-Za-z0-9._-]{1,64}")
    return len(parts) <= 8 and all(segment.fullmatch(p) and p not in (".", "..") for p in parts)


def covers(scope, other):
    """M20."""
    return scope == "*" or scope == other or other.startswith(scope + "/")


# ---------------------------------------------------------------------------------------------------- 4 commands

ACTIONS = "stop restrict throttle isolate revoke suspend refuse release start grant enroll authority".split()
TIGHTEN, PROPOSED = ACTIONS[:7], ACTIONS[7:11]
OF_ROLES = [action for action in ACTIONS if action not in ("refuse", "authority")]
NEEDS_START = ("halt", "drain")


def limits_of(fields):
    found = {k: fields.number(k, 0, 10**12) for k in ("calls_per_minute", "tokens_per_minute") if fields.has(k)}
    fields.end()
    return found or fields.bad("limits")


def locks_of(fields):
    if not isinstance(fields.found.get("locks"), dict):
        return fields.digests("locks", 400)
    bulk = fields.object("locks")
    found = {"count": bulk.number("count", 1, 100_000), "root": bulk.digest("root")}
    found["before"] = bulk.number("before", 1, U64_MAX)
    if bulk.has("by"):
        found["by"] = bulk.name("by")
    bulk.end()
    return found


def parse_command(data):
    """M21 to M31: the command as the vectors write it."""
    if len(data) > COMMAND_MAX:
        raise Refused("too-large")
    fields = Fields(strict(data))
    fields.tagout()
    shutdown = not fields.has("action") or fields.has("agent_id")
    action = fields.string("action") if fields.has("action") else "stop"
    if action not in ACTIONS:
        fields.bad("action")
    if action == "authority":
        authority = parse_authority(data)
        keys = ("deployment", "issued_at_ms")
        return {"action": action, **{k: authority[k] for k in keys}, "shutdown_form": False, "scope": "*",
                "authority": authority}
    command = {"action": action, "deployment": fields.deployment()}
    fields.word("id", 128)
    command["issued_at_ms"] = fields.instant("issued_at")
    command["shutdown_form"] = action == "stop" and (shutdown or not fields.has("mode"))
    command["reason"] = fields.text("reason", 1024)
    if action == "stop" and len(data) > STOP_MAX:
        raise Refused("too-large")
    if action == "suspend":
        command["scope"] = "*"
    else:
        command["scope"] = fields.scope("agent_id" if action == "stop" and fields.has("agent_id") else "scope")
    if action == "stop":
        mode = fields.string("mode") if fields.has("mode") else "halt"
        if mode not in ("halt", "drain", "pause"):
            fields.bad("mode")
        command["kind"] = {"drain": {"drain_ms": fields.number("drain_ms", 1, 3_600_000)}} if mode == "drain" else mode
    elif action == "throttle":
        command["kind"] = {"throttle": limits_of(fields.object("limits"))}
    elif action in ("restrict", "isolate"):
        command["kind"] = action
    elif action == "revoke":
        command["grants"] = fields.digests("grants", 400)
    elif action == "suspend":
        command["keys"] = [document_key(fields, line) for line in fields.list("keys", 64, str)]
        if len({key_id(key) for key in command["keys"]}) != len(command["keys"]):
            fields.bad("keys")
    elif action == "refuse":
        command["proposal"] = fields.digest("proposal")
    elif action in ("release", "start"):
        command["locks"] = locks_of(fields)
        if action == "release" and fields.has("lost_from"):
            command["lost_from"] = fields.number("lost_from", 0, U64_MAX)
    elif action == "grant":
        command["expires_at_ms"] = fields.instant("expires_at")
        seen = fields.object("seen")
        command["seen"] = {"epoch": seen.digest("epoch"), "size": seen.number("size", 0, U64_MAX)}
        command["seen"]["authority"] = seen.number("authority", 1, 4096)
        seen.end()
        classes = fields.list("essential", 16, str) if fields.has("essential") else []
        if len(set(classes)) != len(classes) or not all(map(is_name, classes)):
            fields.bad("essential")
        command["essential"] = sorted(classes)
        command["limits"] = limits_of(fields.object("limits")) if fields.has("limits") else {}
    elif action == "enroll":
        command["token"] = fields.digest("token")
        if fields.has("expires_at"):
            command["expires_at_ms"] = fields.instant("expires_at")
    if action in TIGHTEN and fields.has("case"):
        command["case"] = fields.text("case", 128)
    fields.end()
    return command


# ---------------------------------------------------------------------------------------------------- 5 other documents


def parse_trip(data):
    if len(data) > STOP_MAX:
        raise Refused("too-large")
    fields = Fields(strict(data))
    fields.tagout()
    trip = {"deployment": fields.deployment(), "scope": fields.scope("trip"), "nonce": fields.digest("nonce")}
    trip["issued_at_ms"] = fields.instant("issued_at")
    trip["instance"] = fields.word("instance", 59)
    trip["reason"] = fields.text("reason", 1024)
    fields.end()
    return trip


def parse_restore(data):
    if len(data) > STOP_MAX:
        raise Refused("too-large")
    fields = Fields(strict(data))
    fields.tagout()
    restore = {"deployment": fields.deployment()}
    part = fields.object("restore")
    restore["number"], restore["id"] = part.number("number", 2, U64_MAX), part.digest("id")
    part.end()
    fields.instant("issued_at")
    part = fields.object("authority")
    restore["authority"] = (part.number("version", 1, U64_MAX), part.digest("digest"))
    part.end()
    part = fields.object("checkpoint")
    restore["size"], restore["root"] = part.number("size", 1, U64_MAX), part.digest("root")
    part.end()
    restore["lost_from"] = fields.number("lost_from", 1, restore["size"])
    restore["reason"] = fields.text("reason", 1024)
    fields.end()
    return restore


def parse_rule(data):
    if len(data) > COMMAND_MAX:
        raise Refused("too-large")
    fields = Fields(strict(data))
    fields.tagout()
    rule = {"deployment": fields.deployment(), "rule": fields.number("rule", 1, U64_MAX)}
    fields.end()
    return rule


def place_of(fields):
    place = {"digest": fields.digest("digest"), "index": fields.number("index", 0, U64_MAX)}
    fields.end()
    return place


def parse_drill(data):
    """M198, M199."""
    if len(data) > COMMAND_MAX:
        raise Refused("too-large")
    fields = Fields(strict(data))
    fields.tagout()
    drill = {"deployment": fields.deployment(), "issued_at_ms": fields.instant("issued_at")}
    part = fields.object("drill")
    drill["scope"], drill["stop"] = part.scope("scope"), place_of(part.object("stop"))
    for key in ("outcome", "confirmed", "bounded"):
        drill[key] = part.number(key, 0, U64_MAX)
    for key in ("release", "start"):
        drill[key] = place_of(part.object(key)) if part.has(key) else None
    drill["slowest_ms"] = part.number("slowest_ms", 0, U64_MAX) if part.has("slowest_ms") else None
    times = []
    for item in map(Fields, part.list("instances", 64, dict)):
        agent, _ = item.scope("agent"), item.word("instance", 128)
        times.append(item.number("after_ms", 0, U64_MAX) if item.has("after_ms") else item.take("bounded"))
        item.end()
        if times[-1] is False or not isinstance(times[-1], (bool, Number)) or not covers(drill["scope"], agent):
            item.bad("instance")
    part.end()
    fields.end()
    after = [t for t in times if t is not True]
    silent, slowest = len(times) - len(after), drill["slowest_ms"]
    if drill["start"] and not drill["release"] or (slowest is not None) != (drill["confirmed"] > 0):
        fields.bad("drill")
    if len(after) > drill["confirmed"] or silent > drill["bounded"] or any(t > slowest for t in after):
        fields.bad("drill")
    if (len(after), silent) == (drill["confirmed"], drill["bounded"]) and after and max(after) != slowest:
        fields.bad("drill")
    return drill


def parse_placing(data):
    """What a document places: scope, kind and, for a restore, lost_from."""
    found = strict(data)
    if "trip" in found:
        return {"scope": parse_trip(data)["scope"], "kind": "halt"}
    if "restore" in found:
        return {"scope": "*", "kind": "halt", "lost_from": parse_restore(data)["lost_from"]}
    command = parse_command(data)
    if "kind" not in command:
        raise Refused("bad-document", "it places no lock")
    return {"scope": command["scope"], "kind": command["kind"]}


# ---------------------------------------------------------------------------------------------------- 6 signatures

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
NAMESPACE = b"tagout-command"
DRILL_NAMESPACE = b"tagout-drill"
PLAIN, TOKEN = "ssh-ed25519", "sk-ssh-ed25519@openssh.com"
BEGIN, END = "-----BEGIN SSH SIGNATURE-----", "-----END SSH SIGNATURE-----"


@functools.lru_cache(maxsize=None)
def point(data):
    """RFC 8032, section 5.1.3: the point in affine coordinates, or None."""
    y = int.from_bytes(data, "little")
    sign, y = y >> 255, y & (2**255 - 1)
    if y >= P:
        return None
    u, v = (y * y - 1) % P, (D * y * y + 1) % P
    x = u * pow(v, 3, P) * pow(u * pow(v, 7, P), (P - 5) // 8, P) % P
    if v * x * x % P == (P - u) % P:
        x = x * pow(2, (P - 1) // 4, P) % P
    if v * x * x % P != u or (x == 0 and sign):
        return None
    return (P - x if x % 2 != sign else x, y)


def add(a, b):
    (x1, y1), (x2, y2) = a, b
    k = D * x1 * x2 * y1 * y2 % P
    x = (x1 * y2 + x2 * y1) * pow(1 + k, P - 2, P) % P
    y = (y1 * y2 + x1 * x2) * pow(1 - k, P - 2, P) % P
    return (x, y)


@functools.lru_cache(maxsize=None)
def is_small(a):
    for _ in range(3):
        a = add(a, a)
    return a == (0, 1)


def check_point(raw):
    """M43."""
    found = point(raw)
    if found is None:
        raise Refused("malformed", "no point")
    if is_small(found):
        raise Refused("weak-key")


def verify_ed25519(raw, message, signature):
    """M52. OpenSSL compares R byte for byte and bounds S; the rest is here."""
    r = point(signature[:32])
    if r is None or is_small(r) or is_small(point(raw)) or int.from_bytes(signature[32:], "little") >= L:
        raise Refused("mismatch")
    try:
        Ed25519PublicKey.from_public_bytes(raw).verify(signature, message)
    except InvalidSignature:
        raise Refused("mismatch") from None


class Private:
    """A key from a fixed seed."""

    def __init__(self, seed, application=None):
        self.seed = bytes([seed]) * 32 if isinstance(seed, int) else seed
        self.private = Ed25519PrivateKey.from_private_bytes(self.seed)
        self.raw = self.private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.key = {"raw": self.raw, "application": application}

    def sign(self, message):
        return self.private.sign(message)

    @property
    def line(self):
        return key_line(self.key)


def string(data):
    return u32(len(data)) + data


class Wire:
    """Reads SSH's wire format (RFC 4251, section 5)."""

    def __init__(self, data):
        self.data = data

    def take(self, count):
        if count > len(self.data):
            raise Refused("malformed", "too short")
        head, self.data = self.data[:count], self.data[count:]
        return head

    def u32(self):
        return int.from_bytes(self.take(4), "big")

    def string(self):
        return self.take(self.u32())

    def end(self):
        if self.data:
            raise Refused("malformed", "left over")


def key_algorithm(key):
    return PLAIN if key["application"] is None else TOKEN


def key_id(key):
    """The whole key, for comparison (M69)."""
    return (key["raw"], key["application"])


def key_blob(key):
    blob = string(key_algorithm(key).encode()) + string(key["raw"])
    return blob if key["application"] is None else blob + string(key["application"].encode())


def key_line(key):
    return f"{key_algorithm(key)} {b64(key_blob(key))}"


def fingerprint(key):
    return "SHA256:" + b64(sha256(key_blob(key))).rstrip("=")


def parse_key_blob(blob):
    wire = Wire(blob)
    algorithm = wire.string()
    if algorithm not in (PLAIN.encode(), TOKEN.encode()):
        raise Refused("algorithm")
    raw, application = wire.string(), None
    if len(raw) != 32:
        raise Refused("malformed", "no key of 32 bytes")
    if algorithm == TOKEN.encode():
        application = wire.string()
        if not re.fullmatch(rb"ssh:[\x20-\x7e]{0,60}", application):
            raise Refused("application")
        application = application.decode()
    wire.end()
    check_point(raw)
    return {"raw": raw, "application": application}


def parse_key_line(line):
    """M39 to M43, with the classes of signatures."""
    words = [word for word in re.split(r"[ \t\n\f\r]+", line) if word]
    if not words or words[0] not in (PLAIN, TOKEN):
        raise Refused("algorithm")
    blob = unb64(words[1]) if len(words) > 1 else None
    if blob is None:
        raise Refused("malformed", "no base64")
    key = parse_key_blob(blob)
    if key_algorithm(key) != words[0]:
        raise Refused("malformed", "two algorithms")
    return key


def preimage(document, hash_name="sha512", namespace=NAMESPACE, reserved=b""):
    digest = hashlib.new(hash_name, document).digest()
    return b"SSHSIG" + string(namespace) + string(reserved) + string(hash_name.encode()) + string(digest)


def token_preimage(application, flags, counter, message):
    return sha256(application.encode()) + u8(flags) + u32(counter) + sha256(message)


def armor(sshsig, width=70, eol="\n"):
    text = b64(sshsig)
    lines = [text[i : i + width] for i in range(0, len(text), width)]
    return eol.join([BEGIN, *lines, END]) + eol


def sshsig_blob(key_blob_, signature_blob, hash_name="sha512", namespace=NAMESPACE, reserved=b"", magic=b"SSHSIG", version=1):
    parts = [key_blob_, namespace, reserved, hash_name.encode(), signature_blob]
    return magic + u32(version) + b"".join(map(string, parts))


def sign(private, document, hash_name="sha512", flags=5, counter=7, namespace=NAMESPACE):
    """An armored SSHSIG; by a token if the key has an application."""
    message = preimage(document, hash_name, namespace)
    application = private.key["application"]
    if application is None:
        blob = string(PLAIN.encode()) + string(private.sign(message))
    else:
        signed = token_preimage(application, flags, counter, message)
        blob = string(TOKEN.encode()) + string(private.sign(signed)) + u8(flags) + u32(counter)
    return armor(sshsig_blob(key_blob(private.key), blob, hash_name, namespace))


def parse_signature(armored):
    """M44 to M51, M54: key, namespace, hash, the 64 bytes, flags and counter."""
    if len(armored.encode()) > 1024:
        raise Refused("too-large")
    found = re.fullmatch(f"{BEGIN}([\r\n][^-]*\n){END}[\r\n]*", armored)
    blob = found and unb64(found.group(1).replace("\r", "").replace("\n", ""))
    if blob is None:
        raise Refused("armor")
    if blob[:6] != b"SSHSIG":
        raise Refused("malformed", "no SSHSIG")
    wire = Wire(blob[6:])
    if wire.u32() != 1:
        raise Refused("malformed", "version")
    key = parse_key_blob(wire.string())
    namespace, reserved, hash_name = wire.string(), wire.string(), wire.string()
    if reserved:
        raise Refused("malformed", "reserved")
    if hash_name not in (b"sha256", b"sha512"):
        raise Refused("malformed", "hash")
    inner = Wire(wire.string())
    if inner.string() != key_algorithm(key).encode():
        raise Refused("algorithm-of-key")
    signature = inner.string()
    if len(signature) != 64:
        raise Refused("malformed", "no signature of 64 bytes")
    flags, counter = 0, 0
    if key["application"] is not None:
        flags, counter = inner.take(1)[0], inner.u32()
    inner.end()
    if flags & 0xC0:
        raise Refused("more-is-signed")
    wire.end()
    return {"key": key, "namespace": namespace, "hash": hash_name.decode(), "signature": signature,
            "flags": flags, "counter": counter}


VERIFIED = {}


def verify_signature(armored, document, namespace=NAMESPACE):
    """M48, M52, M53, M55: what is proven."""
    memory = (armored, document, namespace)
    if memory not in VERIFIED:
        VERIFIED[memory] = _verify_signature(armored, document, namespace)
    return VERIFIED[memory]


def _verify_signature(armored, document, namespace=NAMESPACE):
    found = parse_signature(armored)
    if found["namespace"] != namespace:
        raise Refused("namespace")
    key, message = found["key"], preimage(document, found["hash"], namespace)
    if key["application"] is not None:
        message = token_preimage(key["application"], found["flags"], found["counter"], message)
    verify_ed25519(key["raw"], message, found["signature"])
    return {"key": key, "presence": bool(found["flags"] & 1), "verification": bool(found["flags"] & 4)}


# ---------------------------------------------------------------------------------------------------- 7 envelopes


def envelope(document, *signers):
    data = document.encode()
    return {"document": document, "signatures": [s if isinstance(s, str) else sign(s, data) for s in signers]}


def data_of(envelope_):
    return envelope_["document"].encode()


def digest_of(envelope_):
    """M59."""
    return hexdigest(data_of(envelope_))


def check_bounds(envelope_):
    """M58."""
    signatures = envelope_["signatures"]
    if len(data_of(envelope_)) > COMMAND_MAX:
        raise Refused("too-large")
    if not signatures:
        raise Refused("unsigned")
    if len(signatures) > 16 or any(len(s.encode()) > 1024 for s in signatures):
        raise Refused("too-large")


# ---------------------------------------------------------------------------------------------------- 8 the authority


def document_key(fields, line):
    try:
        return parse_key_line(line)
    except Refused:
        fields.bad("key")


def parse_authority(data):
    if len(data) > COMMAND_MAX:
        raise Refused("too-large")
    f = Fields(strict(data))
    f.tagout()
    if f.string("action") != "authority":
        f.bad("action")
    a = {"version": f.number("version", 1, 4096), "digest": hexdigest(data), "retired": [], "disables": 0, "previous": None}
    if a["version"] == 1:
        a["deployment"] = f"{f.name('deployment')}:{a['digest']}"
    else:
        a["deployment"] = f.deployment()
        a["previous"], a["disables"] = f.digest("previous"), f.number("disables", 0, U64_MAX)
        for item in f.list("retired", 64, dict) if f.has("retired") else []:
            r = Fields(item)
            key = document_key(r, r.text("key", 1024))
            a["retired"].append({"key": key, "principal": r.name("principal"), "grants": r.digests("grants", 400)})
            r.end()
        if f.has("reason"):
            f.text("reason", 1024)
    a["issued_at_ms"] = f.instant("issued_at")
    a["principals"] = []
    for item in f.list("principals", 128, dict):
        p = Fields(item)
        name, kind = p.name("name"), p.string("kind")
        if kind not in ("person", "automation"):
            p.bad("kind")
        keys = [document_key(p, line) for line in p.list("keys", 8, str)]
        p.end()
        a["principals"].append({"name": name, "kind": kind, "keys": keys})
    a["roles"] = []
    for item in f.list("roles", 64, dict):
        r = Fields(item)
        role = {"name": r.name("name"), "principals": r.list("principals", 128, str)}
        role["actions"], role["scopes"] = r.list("actions", 11, str), r.list("scopes", 64, str)
        role["threshold"] = r.number("threshold", 1, 128)
        role["presence"], role["verification"] = r.boolean("presence"), r.boolean("verification")
        r.end()
        if not all(x in OF_ROLES for x in role["actions"]) or not all(map(is_scope, role["scopes"])):
            r.bad("role")
        a["roles"].append(role)
    root = f.object("root")
    a["root"] = {"signers": []}
    for item in root.list("signers", 16, dict):
        s = Fields(item)
        a["root"]["signers"].append({"name": s.name("name"), "key": document_key(s, s.text("key", 1024))})
        s.end()
    a["root"]["threshold"] = root.number("threshold", 1, 16)
    root.end()
    a["nodes"] = []
    for item in f.list("nodes", 9, dict):
        n = Fields(item)
        identity, text = n.number("id", 1, U64_MAX), n.text("key", 256)
        try:
            name, raw = parse_verifier_key(text)
        except Refused:
            n.bad("key")
        address = n.text("address", 259) if n.has("address") else None
        if address is not None and not is_address(address):
            n.bad("address")
        learner = n.has("learner")
        if learner and n.take("learner") is not True:
            n.bad("learner")
        n.end()
        a["nodes"].append({"id": identity, "name": name, "raw": raw, "address": address, "learner": learner})
    limits = f.object("limits")
    a["limits"] = {"ttl_ms": limits.number("ttl_ms", 2000, 60000), "lapse_grace_ms": limits.number("lapse_grace_ms", 0, 120000)}
    limits.end()
    a["enrolment"] = f.has("enrolment")
    if a["enrolment"] and f.take("enrolment") is not True:
        f.bad("enrolment")
    f.end()
    check_authority(f, a)
    return a


def check_authority(f, a):
    """M61 to M67, M178."""
    points = [key["raw"] for p in a["principals"] for key in p["keys"]]
    points += [r["key"]["raw"] for r in a["retired"]] + [s["key"]["raw"] for s in a["root"]["signers"]]
    points += [n["raw"] for n in a["nodes"]]
    names = [p["name"] for p in a["principals"]]
    unique = [points, names, [r["name"] for r in a["roles"]], [s["name"] for s in a["root"]["signers"]],
              [n["name"] for n in a["nodes"]], [n["id"] for n in a["nodes"]], *(r["principals"] for r in a["roles"])]
    if any(len(set(values)) != len(values) for values in unique):
        f.bad("something stands twice")
    addresses = [n["address"] for n in a["nodes"]]
    if len(addresses) > 1 and (None in addresses or len(set(addresses)) != len(addresses)):
        f.bad("address")
    if all(n["learner"] for n in a["nodes"]):
        f.bad("learner")
    if not all(r["principal"] in names for r in a["retired"]):
        f.bad("retired")
    if a["root"]["threshold"] > len(a["root"]["signers"]):
        f.bad("root")
    automations = {p["name"] for p in a["principals"] if p["kind"] == "automation"}
    for role in a["roles"]:
        loosens = any(x not in TIGHTEN for x in role["actions"])
        tightens = any(x in TIGHTEN for x in role["actions"])
        if not set(role["principals"]) <= set(names) or role["threshold"] > len(role["principals"]):
            f.bad("role")
        if loosens and automations & set(role["principals"]) or tightens and role["threshold"] > 1:
            f.bad("role")


def owner(authority, key, digest):
    """M69, M90: the name of the principal for whom a signature by `key` on `digest` counts, or None."""
    for p in authority["principals"]:
        if any(key_id(k) == key_id(key) for k in p["keys"]):
            return p["name"]
    for r in authority["retired"]:
        if key_id(r["key"]) == key_id(key) and digest in r["grants"]:
            return r["principal"]
    return None


def proofs(envelope_, namespace=NAMESPACE):
    """M68: every signature that verifies, each key once."""
    found = {}
    for armored in envelope_["signatures"]:
        try:
            proven = verify_signature(armored, data_of(envelope_), namespace)
        except Refused:
            continue
        found.setdefault(key_id(proven["key"]), proven)
    return list(found.values())


def attribute(authority, proven, digest):
    """M70: name -> (presence, verification)."""
    signers = {}
    for proof in proven:
        name = owner(authority, proof["key"], digest)
        if name is not None:
            presence, verification = signers.get(name, (False, False))
            signers[name] = (presence or proof["presence"], verification or proof["verification"])
    return signers


def authorise(authority, action, scope, signers):
    """M71 to M73."""
    if not signers:
        raise Refused("no-valid-signature")
    near = False
    for role in authority["roles"]:
        if action not in role["actions"] or not any(covers(s, scope) for s in role["scopes"]):
            continue
        members = [flags for name, flags in signers.items() if name in role["principals"]]
        takes = [(p, v) for p, v in members if (p or not role["presence"]) and (v or not role["verification"])]
        if len(takes) >= role["threshold"]:
            return
        near = near or bool(members)
    raise Refused("below-threshold" if near else "no-role")


def counting(authority, action, scope, signers):
    """Those who count towards M71, be they enough or not."""
    found = set()
    for role in authority["roles"]:
        if action in role["actions"] and any(covers(s, scope) for s in role["scopes"]):
            found |= {name for name, (p, v) in signers.items() if name in role["principals"]
                      and (p or not role["presence"]) and (v or not role["verification"])}
    return found


def may_refuse(authority, action, scope, signers):
    """M195."""
    if not signers:
        raise Refused("no-valid-signature")
    for role in authority["roles"]:
        if {action, "stop"} & set(role["actions"]) and any(covers(s, scope) for s in role["scopes"]):
            if any(name in role["principals"] for name in signers):
                return
    raise Refused("no-role")


def check_root(authority, envelope_):
    """M75."""
    keys = {key_id(s["key"]) for s in authority["root"]["signers"]}
    signed = {key_id(p["key"]) for p in proofs(envelope_)} & keys
    if len(signed) < authority["root"]["threshold"]:
        raise Refused("root-threshold")


# ---------------------------------------------------------------------------------------------------- 9 the trust chain


def signing_points(authority):
    """The curve points of all that may sign documents: principals and root signers."""
    keys = [k for p in authority["principals"] for k in p["keys"]] + [s["key"] for s in authority["root"]["signers"]]
    return {k["raw"] for k in keys}


class Trust:
    def __init__(self, genesis, pinned):
        """M74."""
        if digest_of(genesis) != pinned:
            raise Refused("not-pinned")
        check_bounds(genesis)
        first = parse_authority(data_of(genesis))
        if first["version"] != 1:
            raise Refused("bad-document")
        check_root(first, genesis)
        self.chain, self.epochs = [first], [(1, pinned)]
        self.gone, self.suspended = set(), set()

    @property
    def authority(self):
        return self.chain[-1]

    @property
    def epoch(self):
        return self.epochs[-1]

    @property
    def deployment(self):
        return self.chain[0]["deployment"]

    def check_deployment(self, theirs):
        if theirs != self.deployment:
            raise Refused("wrong-deployment")

    def usable(self, proven):
        return [p for p in proven if p["key"]["raw"] not in self.suspended]

    def authorise(self, action, scope, envelope_, namespace=NAMESPACE):
        """M71, M85: the names of those who signed, in the order of their signatures."""
        signers = self.signers(envelope_, namespace)
        authorise(self.authority, action, scope, signers)
        return list(signers)

    def signers(self, envelope_, namespace=NAMESPACE):
        return attribute(self.authority, self.usable(proofs(envelope_, namespace)), digest_of(envelope_))

    def learn(self, envelope_):
        check_bounds(envelope_)
        data = data_of(envelope_)
        if "restore" in strict(data):
            restore = parse_restore(data)
            if (restore["number"], restore["id"]) in self.epochs:
                return "nothing"
            self.check_restore(restore, envelope_)
            self.epochs.append((restore["number"], restore["id"]))
            return "restored"
        command = parse_command(data)
        if command["action"] == "authority":
            next_ = command["authority"]
            if any(known["digest"] == next_["digest"] for known in self.chain):
                return "nothing"
            self.check_successor(next_, envelope_)
            self.succeed(next_)
            return "authority"
        if command["action"] == "suspend":
            if all(key["raw"] in self.suspended for key in command["keys"]):
                return "nothing"
            self.check_deployment(command["deployment"])
            self.authorise("suspend", "*", envelope_)
            self.check_suspend(command["keys"])
            self.suspend(command["keys"])
            return "suspended"
        raise Refused("nothing-to-learn")

    def check_successor(self, next_, envelope_):
        """M76 to M80."""
        self.check_deployment(next_["deployment"])
        if next_["version"] != self.authority["version"] + 1:
            raise Refused("version-gap")
        if next_["previous"] != self.authority["digest"]:
            raise Refused("other-predecessor")
        check_root(self.authority, envelope_)
        check_root(next_, envelope_)
        if signing_points(next_) & (self.gone | self.suspended):
            raise Refused("key-returns")
        for r in next_["retired"]:
            mine = [p for p in self.authority["principals"] if p["name"] == r["principal"]]
            had = any(key_id(k) == key_id(r["key"]) for p in mine for k in p["keys"])
            before = any(key_id(o["key"]) == key_id(r["key"]) and o["principal"] == r["principal"]
                         and set(r["grants"]) <= set(o["grants"]) for o in self.authority["retired"])
            if r["key"]["raw"] in self.suspended or not (had or before):
                raise Refused("not-retirable")

    def succeed(self, next_):
        self.gone |= signing_points(self.authority) - signing_points(next_)
        self.chain.append(next_)

    def check_suspend(self, keys):
        """M83, M84."""
        roots = {s["key"]["raw"] for s in self.authority["root"]["signers"]}
        if any(k["raw"] in roots for k in keys):
            raise Refused("root-key")
        if len(self.suspended) + len(keys) > 16384:
            raise Refused("too-many-suspended")

    def suspend(self, keys):
        self.suspended |= {k["raw"] for k in keys}

    def check_restore(self, restore, envelope_):
        """M86, M87."""
        self.check_deployment(restore["deployment"])
        if restore["number"] <= self.epoch[0]:
            raise Refused("epoch-rollback")
        if any(restore["id"] == identity for _, identity in self.epochs):
            raise Refused("epoch-returns")
        if restore["authority"] != (self.authority["version"], self.authority["digest"]):
            raise Refused("restore-authority")
        check_root(self.authority, envelope_)

    def judge_grant(self, envelope_):
        """M89 to M91."""
        check_bounds(envelope_)
        grant = parse_command(data_of(envelope_))
        if grant["action"] != "grant":
            raise Refused("not-a-grant")
        self.check_deployment(grant["deployment"])
        if grant["seen"]["authority"] > self.authority["version"]:
            raise Refused("authority-ahead")
        proven = self.usable(proofs(envelope_))
        self.consents(grant, digest_of(envelope_), proven, self.chain)
        return grant

    def consents(self, grant, digest, proven, chain):
        first = grant["seen"]["authority"]
        for authority in chain[first - 1 :]:
            try:
                authorise(authority, "grant", grant["scope"], attribute(authority, self.usable(proven), digest))
            except Refused as refused:
                raise refused if authority["version"] == first else Refused("void-before") from None

    def still_consents(self, record, next_=None):
        try:
            chain = self.chain + ([next_] if next_ else [])
            self.consents(record["grant"], record["digest"], record["proven"], chain)
            return True
        except Refused:
            return False


def place_grant(grant, agent, epoch, size):
    """M92."""
    if not covers(grant["scope"], agent):
        raise Refused("elsewhere")
    if grant["seen"]["epoch"] != epoch:
        raise Refused("other-epoch")
    if grant["seen"]["size"] > size:
        raise Refused("seen-ahead")


# ---------------------------------------------------------------------------------------------------- 10 the rule

DENIED, ESSENTIAL_ONLY, ENABLED = "denied", "essential_only", "enabled"
ORDER = [DENIED, ESSENTIAL_ONLY, ENABLED]


def kind_name(kind):
    return kind if isinstance(kind, str) else next(iter(kind))


def fact(kind, released, entry_time_ms):
    """M99."""
    deadline = None
    if kind_name(kind) == "drain":
        deadline = min(entry_time_ms + kind["drain"]["drain_ms"], U64_MAX)
    return {"kind": kind, "released": released, "drain_deadline_ms": deadline}


def lock_verdict(lock, now_ms):
    name = kind_name(lock["kind"])
    if name == "halt":
        return DENIED
    if name == "drain":
        at = lock["drain_deadline_ms"]
        return ESSENTIAL_ONLY if at is not None and now_ms < at else DENIED
    if name == "throttle" or lock["released"]:
        return ENABLED
    return ESSENTIAL_ONLY if name == "restrict" else DENIED


def verdict(expiries_ms, locks, now_ms):
    found = [ENABLED if any(now_ms < at for at in expiries_ms) else DENIED]
    return min(found + [lock_verdict(lock, now_ms) for lock in locks], key=ORDER.index)


def cuts(lock, now_ms):
    """M100."""
    return kind_name(lock["kind"]) in ("halt", "drain", "isolate") and lock_verdict(lock, now_ms) == DENIED


def terms(grants, locks):
    """M101, M102."""
    essential = sorted({c for g in grants for c in g["essential"]})
    limits = {}
    for key in ("calls_per_minute", "tokens_per_minute"):
        granted = [g["limits"].get(key) for g in grants]
        bounds = [max(granted)] if granted and None not in granted else []
        bounds += [lock["kind"]["throttle"][key] for lock in locks
                   if kind_name(lock["kind"]) == "throttle" and not lock["released"] and key in lock["kind"]["throttle"]]
        if bounds:
            limits[key] = min(bounds)
    return {"essential": essential, "limits": limits}


# ---------------------------------------------------------------------------------------------------- 12 entries

KINDS = {"command": 1, "trip": 2, "outcome": 3, "proposal": 4, "drill": 5, "restore": 6, "rule-version": 7}


def encode_entry(kind, index, time_ms, prev, envelope_):
    """M138, M140."""
    document, signatures = data_of(envelope_), [s.encode() for s in envelope_["signatures"]]
    if len(signatures) > 16:
        raise Refused("malformed")
    out = u8(1) + u8(KINDS[kind]) + u64(index) + u64(time_ms) + bytes.fromhex(prev) + u32(len(document)) + document
    out += u8(len(signatures)) + b"".join(u16(len(s)) + s for s in signatures)
    if len(out) > 65535:
        raise Refused("too-large")
    return out


def decode_entry(data):
    """M139, M140."""
    if len(data) > 65535:
        raise Refused("too-large")
    at = 0

    def take(count):
        nonlocal at
        if at + count > len(data):
            raise Refused("malformed", "too short")
        at += count
        return data[at - count : at]

    def text(count):
        try:
            return take(count).decode("utf-8")
        except UnicodeDecodeError:
            raise Refused("malformed", "no UTF-8") from None

    form, kind = take(1)[0], take(1)[0]
    if form != 1:
        raise Refused("format")
    if kind not in KINDS.values():
        raise Refused("kind")
    index, time_ms, prev = int.from_bytes(take(8), "big"), int.from_bytes(take(8), "big"), take(32).hex()
    document = text(int.from_bytes(take(4), "big"))
    count = take(1)[0]
    if count > 16:
        raise Refused("malformed", "too many signatures")
    signatures = [text(int.from_bytes(take(2), "big")) for _ in range(count)]
    if at != len(data):
        raise Refused("malformed", "left over")
    name = next(name for name, number in KINDS.items() if number == kind)
    return {"kind": name, "index": index, "time_ms": time_ms, "prev": prev, "document": document, "signatures": signatures}


# ---------------------------------------------------------------------------------------------------- 13 the tree


def leaf_hash(data):
    return sha256(b"\x00" + data)


def node_hash(left, right):
    return sha256(b"\x01" + left + right)


def split(n):
    return 1 << ((n - 1).bit_length() - 1)


def root(leaves):
    if not leaves:
        return sha256(b"")
    if len(leaves) == 1:
        return leaves[0]
    k = split(len(leaves))
    return node_hash(root(leaves[:k]), root(leaves[k:]))


def prove(index, leaves):
    """RFC 6962, section 2.1.1."""
    if len(leaves) == 1:
        return []
    k = split(len(leaves))
    if index < k:
        return prove(index, leaves[:k]) + [root(leaves[k:])]
    return prove(index - k, leaves[k:]) + [root(leaves[:k])]


def verify_inclusion(leaf, index, size, path, root_):
    """RFC 9162, section 2.1.3.2."""
    if index >= size:
        return False
    fn, sn, r = index, size - 1, leaf
    for p in path:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            r = node_hash(p, r)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            r = node_hash(r, p)
        fn, sn = fn >> 1, sn >> 1
    return sn == 0 and r == root_


def prove_consistency(m, leaves, whole=True):
    """RFC 6962, section 2.1.2; nothing proves that a tree continues the empty one."""
    n = len(leaves)
    if m == 0 or m == n:
        return [] if whole else [root(leaves)]
    k = split(n)
    if m <= k:
        return prove_consistency(m, leaves[:k], whole) + [root(leaves[k:])]
    return prove_consistency(m - k, leaves[k:], False) + [root(leaves[:k])]


def verify_consistency(first, second, path, first_root, second_root):
    """RFC 9162, section 2.1.4.2."""
    if first == second:
        return not path and first_root == second_root
    if first == 0:
        return not path and first_root == sha256(b"")
    if first > second:
        return False
    if first & (first - 1) == 0:
        path = [first_root, *path]
    if not path:
        return False
    fn, sn = first - 1, second - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    fr = sr = path[0]
    for c in path[1:]:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            fr, sr = node_hash(c, fr), node_hash(c, sr)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            sr = node_hash(sr, c)
        fn, sn = fn >> 1, sn >> 1
    return sn == 0 and fr == first_root and sr == second_root


def tile_path(level, n, width):
    groups = [f"{n % 1000:03}"]
    while n >= 1000:
        n //= 1000
        groups.insert(0, f"x{n % 1000:03}")
    return f"{level}/{'/'.join(groups)}" + ("" if width == 256 else f".p/{width}")


def parse_tile_path(path):
    """M144."""
    found = re.fullmatch(r"(entries|0|[1-9][0-9]?)/((?:x[0-9]{3}/)*)([0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?", path, re.ASCII)
    if not found:
        raise Refused("bad-tile")
    level, groups, last, width = found.groups()
    n = int(groups.replace("x", "").replace("/", "") + last)
    width = 256 if width is None else int(width)
    tile = {"level": level if level == "entries" else int(level), "n": n, "width": width}
    if groups.startswith("x000") or n > U64_MAX or (level != "entries" and int(level) > 63) or (width > 255 and ".p/" in path):
        raise Refused("bad-tile")
    return tile


def parse_bundle(data):
    """M145."""
    entries = []
    while data:
        if len(data) < 2 or len(data) < 2 + int.from_bytes(data[:2], "big"):
            raise Refused("bad-tile")
        end = 2 + int.from_bytes(data[:2], "big")
        entries.append(data[2:end])
        data = data[end:]
    return entries


# ---------------------------------------------------------------------------------------------------- 14 notes


def is_key_name(name):
    control = any(ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0 for c in name)
    return name != "" and not control and "+" not in name and not any(c.isspace() for c in name)


def note_key_id(name, raw):
    return sha256(name.encode() + b"\n\x01" + raw)[:4]


def verifier_key(name, raw):
    return f"{name}+{note_key_id(name, raw).hex()}+{b64(bytes([1]) + raw)}"


def parse_verifier_key(text):
    """M146."""
    parts = text.split("+", 2)
    material = unb64(parts[2]) if len(parts) == 3 else None
    if material is None or len(material) != 33 or material[0] != 1 or not is_key_name(parts[0]):
        raise Refused("verifier-key")
    try:
        check_point(material[1:])
    except Refused:
        raise Refused("verifier-key") from None
    if note_key_id(parts[0], material[1:]).hex() != parts[1]:
        raise Refused("verifier-key")
    return parts[0], material[1:]


def signature_line(name, private, text):
    return f"\u2014 {name} {b64(note_key_id(name, private.raw) + private.sign(text.encode()))}\n"


def sign_note(name, private, text):
    return f"{text}\n{signature_line(name, private, text)}"


def open_note(note, name, raw):
    """M147, M148: the text."""
    if len(note.encode()) > 65536 or any(ord(c) < 0x20 and c != "\n" for c in note) or "\n\n" not in note:
        raise Refused("malformed")
    at = note.rindex("\n\n")
    text, tail = note[: at + 1], note[at + 2 :]
    if not tail.endswith("\n"):
        raise Refused("malformed")
    lines = tail[:-1].split("\n")
    if len(lines) > 16:
        raise Refused("malformed")
    signatures = []
    for line in lines:
        found = re.fullmatch("\u2014 ([^ ]*) (.*)", line)
        data = found and unb64(found.group(2))
        if data is None or not is_key_name(found.group(1)):
            raise Refused("malformed")
        signatures.append((found.group(1), data))
    for signer, data in signatures:
        if signer == name and data[:4] == note_key_id(name, raw):
            try:
                if len(data) != 68:
                    raise Refused("bad-signature")
                verify_ed25519(raw, text.encode(), data[4:])
            except Refused:
                raise Refused("bad-signature") from None
            return text
    raise Refused("not-signed")


def decimal(text):
    if not re.fullmatch(r"0|[1-9][0-9]*", text, re.ASCII) or int(text) > U64_MAX:
        raise Refused("malformed")
    return int(text)


def hash_b64(text):
    data = unb64(text)
    if data is None or len(data) != 32:
        raise Refused("malformed")
    return data.hex()


def checkpoint_text(origin, size, root_):
    return f"{origin}\n{size}\n{b64(root_)}\n"


def open_checkpoint(note, name, raw, origin):
    """M149."""
    lines = open_note(note, name, raw)[:-1].split("\n")
    if len(lines) < 3 or not all(lines):
        raise Refused("malformed")
    found = {"origin": lines[0], "size": decimal(lines[1]), "root": hash_b64(lines[2])}
    if found["origin"] != origin:
        raise Refused("origin")
    return found


def verify_proof(text, entry, name, raw, origin):
    """M150."""
    head, empty, checkpoint = text.partition("\n\n")
    lines = head.split("\n")
    if not empty or lines[0] != "c2sp.org/tlog-proof@v1":
        raise Refused("malformed")
    rest = lines[2:] if lines[1:2] and lines[1].startswith("extra ") else lines[1:]
    if not rest or not rest[0].startswith("index ") or len(rest) > 64:
        raise Refused("malformed")
    index, path = decimal(rest[0][6:]), [bytes.fromhex(hash_b64(line)) for line in rest[1:]]
    found = open_checkpoint(checkpoint, name, raw, origin)
    if not verify_inclusion(leaf_hash(entry), index, found["size"], path, bytes.fromhex(found["root"])):
        raise Refused("not-included")
    return {"index": index, "size": found["size"]}


def verify_consistency_proof(text, old_size, old_root, name, raw, origin):
    """M176."""
    head, empty, checkpoint = text.partition("\n\n")
    lines = head.split("\n")
    if not empty or not lines[0].startswith("old ") or len(lines) > 64:
        raise Refused("malformed")
    proven, path = decimal(lines[0][4:]), [bytes.fromhex(hash_b64(line)) for line in lines[1:]]
    found = open_checkpoint(checkpoint, name, raw, origin)
    if proven != old_size:
        raise Refused("other-size")
    if not verify_consistency(old_size, found["size"], path, old_root, bytes.fromhex(found["root"])):
        raise Refused("not-continued")
    return {"old_size": old_size, "size": found["size"]}


# ---------------------------------------------------------------------------------------------------- 15 views and leases


def put(data):
    return u32(len(data)) + data


def put_envelope(e):
    return put(data_of(e)) + u32(len(e["signatures"])) + b"".join(put(s.encode()) for s in e["signatures"])


def put_kind(kind):
    name = kind_name(kind)
    out = put(name.encode())
    if name == "drain":
        out += u64(kind["drain"]["drain_ms"])
    if name == "throttle":
        for key in ("calls_per_minute", "tokens_per_minute"):
            limit = kind["throttle"].get(key)
            out += u8(0) if limit is None else u8(1) + u64(limit)
    return out


def view_digest(view):
    """M151."""
    out = b"tagout-view/v1\n" + put(view["agent"].encode()) + u32(len(view["locks"]))
    for lock in view["locks"]:
        tag = lock["tag"]
        out += bytes.fromhex(lock["id"]) + put(lock["scope"].encode()) + put_kind(lock["kind"])
        out += u64(lock["index"]) + u64(lock["time_ms"]) + u8(lock["released"]) + put(tag["reason"].encode())
        out += u32(len(tag["by"])) + b"".join(put(name.encode()) for name in tag["by"])
        out += u8(0) if tag["case"] is None else u8(1) + put(tag["case"].encode())
    out += u32(len(view["grants"])) + b"".join(map(put_envelope, view["grants"]))
    return hexdigest(out)


def put_clearing(clearing):
    listed = clearing.get("listed")
    out = put_envelope(clearing["envelope"])
    if listed is None:
        return out + u8(0)
    return out + u8(1) + u64(listed["index"]) + u64(len(listed["path"])) + b"".join(map(bytes.fromhex, listed["path"]))


def lease_leaf(nonce, views, answers):
    """M155: `views` are (scope, digest), `answers` (id, answer)."""
    out = b"tagout-lease-leaf/v1\n" + bytes.fromhex(nonce) + u64(len(views))
    for scope, digest in views:
        out += sha256(scope.encode()) + bytes.fromhex(digest)
    out += u64(len(answers))
    for identity, answer in answers:
        out += bytes.fromhex(identity)
        if answer["answer"] == "cleared":
            out += u8(1) + put_envelope(answer["placed"]) + put_clearing(answer["release"])
            out += u8(0) if answer["start"] is None else u8(1) + put_clearing(answer["start"])
        elif answer["answer"] == "held":
            out += u8(2) + sha256(answer["why"].encode())
        else:
            out += u8(3)
    return leaf_hash(out)


def lease_text(lease):
    e = lease
    return (f"tagout-lease/v1\ndeployment {e['deployment']}\nepoch {e['epoch_number']} {e['epoch']}\n"
            f"authority {e['authority_version']} {e['authority']}\nlog {e['log_size']} {b64(bytes.fromhex(e['log_root']))}\n"
            f"time_ms {e['time_ms']}\nttl_ms {e['ttl_ms']}\nlapse_grace_ms {e['lapse_grace_ms']}\nrule {e['rule_version']}\n"
            f"batch {e['batch_size']} {b64(bytes.fromhex(e['batch_root']))}\n")


def open_lease(note, name, raw):
    """M153, M154."""
    lines = open_note(note, name, raw)[:-1].split("\n")
    names = ["deployment", "epoch", "authority", "log", "time_ms", "ttl_ms", "lapse_grace_ms", "rule", "batch"]
    if lines[:1] != ["tagout-lease/v1"] or [line.split(" ")[0] for line in lines[1:]] != names:
        raise Refused("malformed")
    values = [line.split(" ")[1:] for line in lines[1:]]
    if [len(value) for value in values] != [1, 2, 2, 2, 1, 1, 1, 1, 2]:
        raise Refused("malformed")
    deployment, epoch, authority, log, time, ttl, grace, rule, batch = values
    label, colon, digest = deployment[0].partition(":")
    if not (colon and is_name(label) and is_digest(digest) and is_digest(epoch[1]) and is_digest(authority[1])):
        raise Refused("malformed")
    lease = {"deployment": deployment[0], "epoch_number": decimal(epoch[0]), "epoch": epoch[1],
             "authority_version": decimal(authority[0]), "authority": authority[1],
             "log_size": decimal(log[0]), "log_root": hash_b64(log[1]), "time_ms": decimal(time[0]),
             "ttl_ms": decimal(ttl[0]), "lapse_grace_ms": decimal(grace[0]), "rule_version": decimal(rule[0]),
             "batch_size": decimal(batch[0]), "batch_root": hash_b64(batch[1])}
    if lease["ttl_ms"] > 60000 or lease["lapse_grace_ms"] > 120000 or lease["time_ms"] > 253_402_300_799_999:
        raise Refused("malformed")
    return lease


# ---------------------------------------------------------------------------------------------------- 16 clearance


def names_lock(locks, identity, listed):
    """M29, M123."""
    if isinstance(locks, list):
        return identity in locks
    if listed is None:
        return False
    path = [bytes.fromhex(h) for h in listed["path"]]
    return verify_inclusion(leaf_hash(bytes.fromhex(identity)), listed["index"], locks["count"], path, bytes.fromhex(locks["root"]))


def check_clearing(trust, action, clearing, identity, needed, lost_from):
    check_bounds(clearing["envelope"])
    command = parse_command(data_of(clearing["envelope"]))
    trust.check_deployment(command["deployment"])
    if command["action"] != action:
        raise Refused("wrong-action")
    if not names_lock(command["locks"], identity, clearing.get("listed")):
        raise Refused("other-lock")
    if not covers(command["scope"], needed):
        raise Refused("other-scope")
    if lost_from is not None and command.get("lost_from") != lost_from:
        raise Refused("lost-from")
    trust.authorise(action, command["scope"], clearing["envelope"])


def check_clearance(trust, identity, agent, answer):
    """M167 to M170."""
    if digest_of(answer["placed"]) != identity:
        raise Refused("other-document")
    placed = parse_placing(data_of(answer["placed"]))
    check_clearing(trust, "release", answer["release"], identity, placed["scope"], placed.get("lost_from"))
    if kind_name(placed["kind"]) in NEEDS_START:
        if answer["start"] is None:
            raise Refused("start-missing")
        check_clearing(trust, "start", answer["start"], identity, agent, None)
