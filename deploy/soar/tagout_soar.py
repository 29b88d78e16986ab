"""Tagout for security platforms: one client, which each package in this folder carries as it is.

It takes away by webhook and reads by token. It holds no key that signs commands, so it can stop, contain and throttle agents,
and can never give anything back: that is for people, with keys of their own. See README.md in deploy/soar.
"""

import base64
import hashlib
import hmac
import http.client
import json
import re
import secrets
import shlex
import ssl
import time
import urllib.parse

#: What may be asked for, with what the node's answer calls it. The node's webhooks.toml says what each of them does.
TAGOUT_ACTIONS = {"stop": "stop", "contain": "isolate", "throttle": "throttle"}

#: Of one node, and of all of them together: Shuffle ends an action after 30 s.
TAGOUT_TIMEOUT_S = 5
TAGOUT_PATIENCE_S = 20
#: How often every node is tried, and how long after the one that failed.
TAGOUT_ROUNDS_MAX = 3
TAGOUT_PAUSE_S = 1.0
#: How long a node's checkpoint may take to cover an entry that was just acknowledged.
TAGOUT_COVERED_S = 3
TAGOUT_NODES_MAX = 16
TAGOUT_ANSWER_MAX_BYTES = 32 * 1024 * 1024
TAGOUT_TILE_WIDTH = 256


class TagoutError(Exception):
    """What went wrong, in a sentence that says what to do. ``code`` is the node's, or one of our own."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


def tagout_signed(secret, body, identity=None, now_s=None):
    """The headers of a request as Standard Webhooks 1.0.0 has it. Sent again with the same ones it is the same request."""
    identity = identity or "msg_" + secrets.token_hex(16)
    timestamp = str(int(time.time() if now_s is None else now_s))
    content = f"{identity}.{timestamp}.".encode() + body
    signature = base64.b64encode(hmac.new(secret, content, hashlib.sha256).digest()).decode()
    return {"webhook-id": identity, "webhook-timestamp": timestamp, "webhook-signature": f"v1,{signature}"}


class TagoutClient:
    """Asks the nodes of one deployment, the next one where one does not answer.

    ``nodes``: URLs, with commas or spaces between them. ``ca``: the deployment's ca.pem as text; without it the nodes'
    certificates must be good by the machine's own authorities, and they are verified always. ``webhook`` and ``secret``: a name
    and a whsec_ of the nodes' webhooks.toml; taking away needs nothing else. ``token``: the API token of a viewer, with which all
    else is read. ``scopes``: what the webhook may touch, by which test_connectivity sees whether the token sees enough.
    ``deployment`` and ``log_keys``: what records are verified by, the name from profile.toml and the nodes' verifier keys.
    """

    def __init__(self, nodes, ca="", webhook="soar", secret="", token="", scopes="", deployment="", log_keys=""):
        self.nodes = _node_addresses(nodes)
        self.tls = _tls(ca)
        self.webhook = (webhook or "").strip()
        self.secret = (secret or "").strip()
        self.token = _token(token)
        self.scopes = _words(scopes)
        self.deployment = (deployment or "").strip()
        self.log_keys = [_log_key(key) for key in _words(log_keys)]

    # What the platforms offer.

    def test_connectivity(self):
        """Every node answers, all of one deployment, lets the token read what the actions need, and the webhook takes what we
        sign. Nobody is stopped by it."""
        seen = []
        for node in self.nodes:
            # First of all what nobody reads without an identity: each node has an access file of its own.
            self._read("/v1/proposals?scope=*", [node])
            status = self._read("/v1/status", [node])
            if self.deployment and status["deployment"] != self.deployment:
                raise TagoutError(
                    "other-deployment",
                    f"{node} is a node of {status['deployment']}, and the setting deployment says {self.deployment}",
                )
            self._on([node], self._see_enough)
            seen.append({"url": node, "node": status["node"], "log_size": status["log_size"]})
        answer = self._take({"action": "test", "case": "connectivity"})
        if answer is not None:
            raise TagoutError(
                "webhook-configuration",
                f'webhook {self.webhook!r} has no line test = "nothing" under actions in the nodes\' webhooks.toml',
            )
        return {"nodes": seen, "webhook": self.webhook}

    def status(self):
        # A deployment without enrolment shows everybody its status, but no grants and no proposals.
        proposals = self._read("/v1/proposals?scope=*")["proposals"]
        status = self._read("/v1/status")
        names = ("deployment", "node", "log_size", "authority_version", "locks", "time_ms")
        return {name: status[name] for name in names} | {"grants": len(status["grants"]), "proposals": len(proposals)}

    def agents(self, scope="*"):
        """What lives or has consent at or below a scope, with what it may do now."""
        found = self._read("/v1/agents?" + _query(scope))["agents"]
        return [
            {
                "scope": agent["scope"],
                "verdict": agent["verdict"],
                "instances": len(agent["instances"]),
                "locks": agent["locks"],
                "consent_until_ms": agent.get("consent_until_ms"),
            }
            for agent in found
        ]

    def take_away(self, action, scope, reason, case=""):
        """``stop``, ``contain`` or ``throttle``. The same again for a case whose lock holds is that lock."""
        if action not in TAGOUT_ACTIONS:
            raise TagoutError("not-offered", _NOT_OFFERED.format(action=action))
        body = {"action": action, "scope": _filled("scope", scope), "reason": _filled("reason", reason)}
        # Without a case of the platform's it is one of its own: what it is for is told apart by nothing else.
        body["case"] = (case or "").strip() or "msg_" + secrets.token_hex(16)
        answer = self._take(body)
        if answer is None:
            raise TagoutError(
                "nothing-done", f'by the nodes\' webhooks.toml webhook {self.webhook!r} does nothing for "{action}"'
            )
        return {
            "scope": answer["scope"],
            "action": answer["action"],
            "digest": answer["digest"],
            "index": answer["index"],
            "time_ms": answer["time_ms"],
            "repeated": answer["repeated"],
            "agents": answer["reach"]["agents"],
            "instances": answer["reach"]["instances"],
            "case": body["case"],
        }

    def verify_record(self, digest="", index=None):
        """Whether a command is in the log: its entry, the tree's path from it, and a root that a known node has signed."""
        if not self.deployment or not self.log_keys:
            raise TagoutError(
                "settings",
                "records are verified by the settings deployment (the name in profile.toml) and log_keys (the nodes' "
                "verifier keys: jq -r '.document | fromjson | .nodes[].key' genesis.json)",
            )
        digest = (digest or "").strip().lower()
        if digest and not re.fullmatch("[0-9a-f]{64}", digest):
            raise TagoutError("settings", "a digest is 64 hexadecimal digits, as the stop's answer has it")
        if index in (None, ""):
            if not digest:
                raise TagoutError("settings", "say which record: its digest, its index in the log, or both")
            # Only locks in force are found so: of one that people have lifted, the stop's answer had the index.
            index = self._read("/v1/locks/" + digest)["index"]
        index = _whole("index", index)
        return self._on(self.nodes, lambda node: self._verify_on(node, digest, index))

    def propose_resume(self, scope, reason="reviewed"):
        """What keeps a scope from running, and the lines by which people can change that. Nothing is changed by it."""
        scope = _filled("scope", scope)
        locks = self._read("/v1/locks?" + _query(scope))["locks"]
        proposals = self._read("/v1/proposals?" + _query(scope))["proposals"]
        on_it = [lock for lock in locks if _covers(lock["scope"], scope)]
        blocking = on_it or locks
        if proposals:
            ids = [proposal["id"][:12] for proposal in proposals]
            lines = [f"tagout proposals show {one}" for one in ids] + ["tagout proposals sign " + " ".join(ids)]
        elif blocking:
            words = ["tagout", "resume", scope, "--reason", _filled("reason", reason)]
            words += [] if on_it else ["--below"]
            lost_from = [lock["lost_from"] for lock in blocking if lock.get("lost_from") is not None]
            words += ["--lost-from", str(min(lost_from))] if lost_from else []
            lines = [shlex.join(words)]
        else:
            lines = [shlex.join(["tagout", "grant", scope, "--for", "72h", "--reason", _filled("reason", reason)])]
        return {
            "scope": scope,
            "resumed": False,
            "message": _ONLY_PEOPLE if blocking else "No lock holds it. If it does not run, it lacks consent. " + _ONLY_PEOPLE,
            "blocked_by": [
                {
                    "digest": lock["id"],
                    "index": lock["index"],
                    "scope": lock["scope"],
                    "kind": _kind(lock["kind"]),
                    "reason": lock["tag"]["reason"],
                    "by": ", ".join(lock["tag"]["by"]),
                    "case": lock["tag"].get("case") or "",
                    "released": lock["released"],
                }
                for lock in blocking
            ],
            "proposals": [
                {
                    "id": proposal["id"],
                    "action": proposal["action"],
                    "scope": proposal["scope"],
                    "signed_by": ", ".join(proposal["signed_by"]),
                    "missing": proposal.get("missing") or "",
                }
                for proposal in proposals
            ],
            "lines": lines,
        }

    # How it asks.

    def _take(self, body):
        """The node's answer, or None where the webhook does nothing for this."""
        if not self.webhook or not self.secret:
            raise TagoutError("settings", "stopping takes the settings webhook and secret (whsec_…)")
        data = json.dumps(body, ensure_ascii=False).encode()
        # Once, for all nodes and tries: the same bytes are the same command, which takes effect once.
        headers = {**tagout_signed(_secret(self.secret), data), "Content-Type": "application/json"}
        path = "/v1/webhooks/" + urllib.parse.quote(self.webhook, safe="")
        began = time.monotonic()
        failures, pending = [], None
        for turn in range(TAGOUT_ROUNDS_MAX):
            if turn:
                time.sleep(TAGOUT_PAUSE_S)
            failures = []
            for node in self.nodes:
                if time.monotonic() > began + TAGOUT_PATIENCE_S:
                    break
                try:
                    return self._ask(node, "POST", path, data, headers)
                except _Elsewhere as failure:
                    failures.append((node, failure))
                    pending = failure if failure.code == "pending" else pending
        if pending:
            raise TagoutError(
                "pending",
                f"PENDING: it is on a node's disk, was pushed to the agents that this node reaches, and is in no log yet: {pending}",
            )
        raise _none_did(failures)

    def _see_enough(self, node):
        """Whether what the token sees there is what the actions read."""
        if self.scopes:
            # From lists a node would leave out what is not in sight; this it refuses unless all of each scope is.
            try:
                self._exchange(node, "GET", "/v1/events?" + _query(",".join(self.scopes)), headers=self._reading(), begins=True)
            except TagoutError as error:
                if error.code != "bad-scope":
                    raise
                raise TagoutError("settings", f"the setting scopes: {error}") from None
        if self.deployment and self.log_keys:
            self._checkpoint_of(node)

    def _read(self, path, nodes=None):
        return self._on(nodes or self.nodes, lambda node: self._ask(node, "GET", path))

    def _on(self, nodes, act):
        """What ``act`` gives of the first node that can do it."""
        began, failures = time.monotonic(), []
        for node in nodes:
            if time.monotonic() > began + TAGOUT_PATIENCE_S:
                break
            try:
                return act(node)
            except _Elsewhere as failure:
                failures.append((node, failure))
            except (ValueError, KeyError, IndexError) as error:
                failures.append((node, _Elsewhere("strange", f"its answer cannot be read ({error!r}); is this a node of Tagout?")))
        raise _none_did(failures)

    def _ask(self, node, method, path, body=None, headers=None):
        status, kind, data = self._exchange(node, method, path, body, headers or self._reading())
        if status == 204:
            return None
        if kind != "application/json":
            raise _Elsewhere("strange", f"its answer is no JSON but {kind or 'nothing'}; is this a node of Tagout?")
        try:
            return json.loads(data)
        except ValueError:
            raise _Elsewhere("strange", "its answer is no JSON") from None

    def _reading(self):
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    def _exchange(self, node, method, path, body=None, headers=None, begins=False):
        """A good answer's status, kind and bytes, or none of them where it is enough that it ``begins``. What another node may do
        better is an _Elsewhere."""
        url = urllib.parse.urlsplit(node)
        connection = http.client.HTTPSConnection(url.hostname, url.port or 443, timeout=TAGOUT_TIMEOUT_S, context=self.tls)
        try:
            connection.request(method, path, body=body, headers=headers or {})
            answer = connection.getresponse()
            data = b"" if begins and 200 <= answer.status < 300 else answer.read(TAGOUT_ANSWER_MAX_BYTES + 1)
        except ssl.SSLCertVerificationError as error:
            raise _Elsewhere(
                "certificate", f"its certificate is not trusted ({error.verify_message}): compare the setting ca with ca.pem"
            ) from None
        except (OSError, http.client.HTTPException) as error:
            raise _Elsewhere("unreachable", str(error) or type(error).__name__) from None
        finally:
            connection.close()
        if len(data) > TAGOUT_ANSWER_MAX_BYTES:
            raise _Elsewhere("too-large", f"its answer has more than {TAGOUT_ANSWER_MAX_BYTES} bytes: ask for a smaller scope")
        kind = (answer.headers.get_content_type() or "").lower() if data else ""
        if 200 <= answer.status < 300:
            return answer.status, kind, data
        code, detail = "strange", f"it answered {answer.status} {answer.reason}; is this a node of Tagout?"
        if kind == "application/problem+json":
            problem = json.loads(data)
            code, detail = problem["code"], problem["detail"]
        if method == "GET" and answer.status in (401, 403):
            raise _NotShown(code, f"{self._not_shown(code, path)} The node says: {detail}")
        # A node that is busy, alone or configured otherwise says nothing for the others.
        if answer.status >= 500 or code in ("strange", "no-such-webhook", "no-such-tile"):
            raise _Elsewhere(code, detail)
        raise TagoutError(code, detail)

    def _not_shown(self, code, path):
        """What to do about the token, before the node's own words."""
        if not self.token:
            return "the setting token is empty, and reading takes one: the API token of a viewer."
        if code != "outside-scopes":
            return "the setting token is not taken."
        if path.startswith("/log/"):
            return (
                "the setting token sees too little: verify record reads the log, which is the whole fleet's. Give it a token without "
                '--scope, have the nodes open the log (open = ["log"] in access.toml), or leave log_keys empty.'
            )
        return "the setting token sees too little: give it one whose --scope is all that the webhook may touch, or none."

    # How it verifies.

    def _checkpoint_of(self, node):
        note = self._exchange(node, "GET", "/log/checkpoint", headers=self._reading())[2].decode()
        return _checkpoint(note, self.deployment, self.log_keys)

    def _verify_on(self, node, digest, index):
        began = time.monotonic()
        while True:
            size, root, signer = self._checkpoint_of(node)
            if index < size:
                break
            if time.monotonic() > began + TAGOUT_COVERED_S:
                raise TagoutError("not-in-log", f"the log has {size} entries, and none with index {index}")
            time.sleep(0.2)
        tiles = {}

        def tile(kind, number, width):
            part = "" if width == TAGOUT_TILE_WIDTH else f".p/{width}"
            path = f"/log/tile/{kind}/{_tile_number(number)}{part}"
            if path not in tiles:
                tiles[path] = self._exchange(node, "GET", path, headers=self._reading())[2]
            return tiles[path]

        first = index - index % TAGOUT_TILE_WIDTH
        entry = _entry_of(tile("entries", index // TAGOUT_TILE_WIDTH, min(TAGOUT_TILE_WIDTH, size - first)), index - first)
        if _root_with(index, hashlib.sha256(b"\0" + entry).digest(), size, tile) != root:
            raise TagoutError("not-in-log", f"entry {index}, as {node} shows it, is not in the log that {signer} signed")
        record = _entry_fields(entry)
        if record["index"] != index:
            raise TagoutError("not-in-log", f"the entry at index {index} says that it is entry {record['index']}")
        if digest and record["digest"] != digest:
            raise TagoutError("other-record", f"entry {index} is in the log, and is another document: {record['digest']}")
        return {"verified": True, **record, "log_size": size, "log_root": base64.b64encode(root).decode(), "checkpoint_by": signer}


_ONLY_PEOPLE = (
    "Nothing was resumed: automation cannot give anything back, and holds no key that could. People run these lines, each on a "
    "machine with their own key."
)
_NOT_OFFERED = (
    "{action!r} is not offered: automation takes away (stop, contain, throttle), and only people give back. The action propose "
    "resume says what blocks an agent and by which lines people resume it"
)


class _Elsewhere(TagoutError):
    """Another node may do better."""


class _NotShown(_Elsewhere):
    """A node shows this to others: each has an access file of its own, so another may take the token."""


def _none_did(failures):
    """One error for what no node did, by the node, failure of each."""
    shown = [(node, failure) for node, failure in failures if isinstance(failure, _NotShown)]
    if shown:
        # The same of each node, as a rule.
        node, failure = shown[0]
        rest = [f"{other}: {why}" for other, why in failures if not isinstance(why, _NotShown)]
        return TagoutError(failure.code, "; ".join([f"{node}: {failure}", *rest]))
    said = [f"{node}: {failure}" for node, failure in failures]
    return TagoutError("unreachable", "no node could do it: " + ("; ".join(said) or "there was no time left to ask one"))


def _words(text):
    return [word for word in re.split(r"[\s,]+", text or "") if word]


def _filled(name, text):
    text = (text or "").strip()
    if not text:
        raise TagoutError("settings", f"the parameter {name} is empty")
    return text


def _whole(name, text):
    try:
        number = int(str(text).strip())
    except ValueError:
        number = -1
    if number < 0:
        raise TagoutError("settings", f"the parameter {name} is a whole number from 0 on, not {text!r}")
    return number


def _query(scope):
    return urllib.parse.urlencode({"scope": _filled("scope", scope)})


def _covers(above, scope):
    return above == "*" or scope == above or scope.startswith(above + "/")


def _kind(kind):
    return kind if isinstance(kind, str) else " ".join(map(str, kind.values())) if "kind" in kind else next(iter(kind))


def _node_addresses(text):
    nodes = [node.rstrip("/") for node in _words(text)]
    if not nodes or len(nodes) > TAGOUT_NODES_MAX:
        raise TagoutError("settings", f"the setting nodes has 1 to {TAGOUT_NODES_MAX} URLs, such as https://node-1.example:7470")
    for node in nodes:
        url = urllib.parse.urlsplit(node)
        try:
            good = url.scheme == "https" and url.hostname and url.port != 0 and not url.path and not url.query
        except ValueError:
            good = False
        if not good:
            raise TagoutError("settings", f"the setting nodes: {node!r} is no https://HOST:PORT")
    return nodes


def _tls(ca):
    """A platform's text field may have lost the line breaks of a certificate."""
    blocks = re.findall(r"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", ca or "", re.DOTALL)
    if (ca or "").strip() and not blocks:
        raise TagoutError("settings", "the setting ca is the text of ca.pem, with its BEGIN and END CERTIFICATE")
    if not blocks:
        return ssl.create_default_context()
    try:
        der = [base64.b64decode("".join(block.split()), validate=True) for block in blocks]
        return ssl.create_default_context(cadata="".join(map(ssl.DER_cert_to_PEM_cert, der)))
    except (ValueError, ssl.SSLError):
        raise TagoutError("settings", "the setting ca has no whole certificate: copy all of ca.pem") from None


def _token(text):
    token = (text or "").strip()
    # Anything else would be no header of HTTP's; what the node makes of it is for the node to say.
    if not re.fullmatch("[!-~]*", token):
        raise TagoutError("settings", "the setting token is one line, as `tagout token new` showed it")
    return token


def _secret(text):
    try:
        secret = base64.b64decode(text.removeprefix("whsec_"), validate=True)
    except ValueError:
        secret = b""
    if not text.startswith("whsec_") or len(secret) < 24:
        raise TagoutError("settings", "the setting secret is whsec_ and base64, as the file that webhooks.toml names has it")
    return secret


# The log: C2SP signed notes and tlog-tiles, RFC 6962 trees, and Tagout's entries (proto/SPEC.md, sections 12 to 14).


def _log_key(text):
    """A verifier key's name, id and 32 bytes."""
    try:
        name, identity, key = text.split("+", 2)
        key = base64.b64decode(key, validate=True)
        good = len(key) == 33 and key[0] == 1 and identity == _key_id(name, key).hex()
    except ValueError:
        good = False
    if not good:
        raise TagoutError("settings", f"the setting log_keys: {text[:80]!r} is no verifier key NAME+ID+KEY, as the genesis lists it")
    return name, _key_id(name, key), key[1:]


def _key_id(name, key):
    return hashlib.sha256(f"{name}\n".encode() + key).digest()[:4]


def _checkpoint(note, deployment, keys):
    """Size, root and signer of a checkpoint of this deployment's log that a known node has signed."""
    # Of all that the platforms run in, only this takes a package: it is there in each of them.
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    text, parted, signatures = note.rpartition("\n\n")
    text += "\n"
    for line in signatures.splitlines() if parted else []:
        words = line.split(" ")
        if len(words) != 3 or words[0] != "\u2014":
            continue
        for name, identity, key in keys:
            signature = base64.b64decode(words[2])
            if words[1] != name or signature[:4] != identity:
                continue
            try:
                Ed25519PublicKey.from_public_bytes(key).verify(signature[4:], text.encode())
            except InvalidSignature:
                raise TagoutError("bad-checkpoint", f"the checkpoint's signature is not by {name}'s key") from None
            origin, size, root = text.split("\n")[:3]
            if origin != deployment:
                raise TagoutError("bad-checkpoint", f"the checkpoint is of {origin}, and the setting deployment is {deployment}")
            return int(size), base64.b64decode(root), name
    raise TagoutError(
        "bad-checkpoint", "no key of the setting log_keys has signed this node's checkpoint: list all nodes' keys, also of new ones"
    )


def _tile_number(number):
    text = f"{number % 1000:03}"
    while number >= 1000:
        number //= 1000
        text = f"x{number % 1000:03}/{text}"
    return text


def _root_with(index, leaf, size, tile):
    """The root of the first ``size`` entries by this leaf and the hashes beside its path (RFC 6962, section 2.1)."""

    def node(left, right):
        return hashlib.sha256(b"\1" + left + right).digest()

    def perfect(first, height):
        """Of 2^height entries; tiles have every eighth height."""
        level, above = divmod(height, 8)
        hashes = size >> (8 * level)
        at = first >> (8 * level)
        number = at // TAGOUT_TILE_WIDTH
        data = tile(level, number, min(TAGOUT_TILE_WIDTH, hashes - number * TAGOUT_TILE_WIDTH))
        at %= TAGOUT_TILE_WIDTH
        found = [data[32 * i : 32 * i + 32] for i in range(at, at + (1 << above))]
        while len(found) > 1:
            found = [node(*found[i : i + 2]) for i in range(0, len(found), 2)]
        return found[0]

    def root(first, count):
        if count == 1 and first == index:
            return leaf
        height = count.bit_length() - 1
        if count == 1 << height and not first <= index < first + count:
            return perfect(first, height)
        left = 1 << (count - 1).bit_length() - 1
        return node(root(first, left), root(first + left, count - left))

    return root(0, size)


def _entry_of(bundle, at):
    """The entry at this place of a bundle, in which a length of two bytes is before each."""
    begin = 0
    for _ in range(at):
        begin += 2 + int.from_bytes(bundle[begin : begin + 2], "big")
    end = begin + 2 + int.from_bytes(bundle[begin : begin + 2], "big")
    if len(bundle) < begin + 2 or end > len(bundle):
        raise TagoutError("not-in-log", "the node's bundle of entries ends before this one")
    return bundle[begin + 2 : end]


_ENTRY_KINDS = {1: "command", 2: "trip", 3: "outcome", 4: "proposal", 5: "drill", 6: "restore", 7: "rule version"}


def _entry_fields(entry):
    length = int.from_bytes(entry[50:54], "big")
    document = entry[54 : 54 + length]
    if len(entry) < 55 or entry[0] != 1 or entry[1] not in _ENTRY_KINDS or len(document) != length:
        raise TagoutError("strange", "the entry is of a format that this package does not know: look for a newer one")
    said = json.loads(document)
    return {
        "index": int.from_bytes(entry[2:10], "big"),
        "time_ms": int.from_bytes(entry[10:18], "big"),
        "kind": _ENTRY_KINDS[entry[1]],
        "digest": hashlib.sha256(document).hexdigest(),
        "action": said.get("action") or "",
        "scope": said.get("scope") or "",
        "reason": said.get("reason") or "",
        "case": said.get("case") or "",
        "document": document.decode(),
    }
