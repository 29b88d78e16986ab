"""The client by itself: its signatures, its certificates, and a log that lies."""

import base64
import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import tagout_soar
from tagout_soar import TagoutClient, TagoutError, tagout_signed


def test_the_signature_is_that_of_the_specification():
    # standardwebhooks.com, and what control-plane/src/webhooks/standard.rs has by openssl.
    secret = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    headers = tagout_signed(secret, b'{"test": 2432232314}', "msg_1", 1614265330)
    assert headers["webhook-signature"] == "v1,9o7UeFkn1GjVbcY4emAJruJCYqgH2EIf8u/slvVRBZI="


def test_what_gives_back_is_not_offered():
    client = TagoutClient("https://127.0.0.1:1", secret="whsec_" + "A" * 40)
    for action in ("resume", "release", "start", "grant", "restore"):
        with pytest.raises(TagoutError, match="only people give back"):
            client.take_away(action, "moltbook", "a test")


def test_the_same_request_goes_to_every_node(monkeypatch):
    monkeypatch.setattr(tagout_soar, "TAGOUT_PAUSE_S", 0)
    client = TagoutClient("https://a:1 https://b:2", secret="whsec_" + "A" * 40)
    sent = []

    def down(node, method, path, body=None, headers=None):
        sent.append((node, body, headers["webhook-id"], headers["webhook-signature"]))
        raise tagout_soar._Elsewhere("unreachable", "down")

    client._exchange = down
    with pytest.raises(TagoutError, match="https://b:2: down"):
        client.take_away("stop", "moltbook", "a test")
    assert [node for node, *_ in sent] == ["https://a:1", "https://b:2"] * tagout_soar.TAGOUT_ROUNDS_MAX
    assert len({what for _, *what in sent for what in [tuple(what)]}) == 1


class Log:
    """A log of our own, as a node would serve it, that may be altered."""

    NAME = "test:" + "0" * 64

    def __init__(self, size):
        self.entries, prev = [], bytes(32)
        for index in range(size):
            document = b'{"action":"stop","scope":"demo/%d"}' % index
            head = bytes([1, 1]) + index.to_bytes(8, "big") + bytes(8) + prev
            entry = head + len(document).to_bytes(4, "big") + document + b"\0"
            self.entries.append(entry)
            prev = hashlib.sha256(entry).digest()
        self.leaves = [hashlib.sha256(b"\0" + entry).digest() for entry in self.entries]
        self.key = Ed25519PrivateKey.generate()
        public = b"\1" + self.key.public_key().public_bytes_raw()
        self.id = hashlib.sha256(b"node-1\n" + public).digest()[:4]
        self.verifier = f"node-1+{self.id.hex()}+{base64.b64encode(public).decode()}"
        self.origin = self.NAME

    def root(self, leaves):
        """As RFC 6962 defines it, with no thought of tiles."""
        if len(leaves) == 1:
            return leaves[0]
        left = 1
        while left * 2 < len(leaves):
            left *= 2
        return hashlib.sha256(b"\1" + self.root(leaves[:left]) + self.root(leaves[left:])).digest()

    def exchange(self, node, method, path, body=None, headers=None):
        if path.startswith("/log/checkpoint"):
            text = f"{self.origin}\n{len(self.entries)}\n{base64.b64encode(self.root(self.leaves)).decode()}\n"
            signature = base64.b64encode(self.id + self.key.sign(text.encode())).decode()
            return 200, "text/plain", f"{text}\n\u2014 node-1 {signature}\n".encode()
        kind, number = path.removeprefix("/log/tile/").split("/", 1)
        number, _, width = number.partition(".p/")
        number = int(number.replace("x", "").replace("/", ""))
        width = int(width or 256)
        if kind == "entries":
            some = self.entries[number * 256 : number * 256 + width]
            return 200, "", b"".join(len(entry).to_bytes(2, "big") + entry for entry in some)
        each = 256 ** int(kind)
        at = range(number * 256, number * 256 + width)
        return 200, "", b"".join(self.root(self.leaves[n * each : (n + 1) * each]) for n in at)

    def verify(self, index, digest=""):
        client = TagoutClient("https://127.0.0.1:1", deployment=self.NAME, log_keys=self.verifier)
        client._exchange = self.exchange
        return client.verify_record(digest, index)


@pytest.mark.parametrize("size", [1, 2, 3, 255, 256, 257, 511, 512, 513, 1000, 66_000])
def test_every_place_of_a_log_is_verified(size):
    log = Log(size)
    root = log.root(log.leaves)
    log.root, plain = (lambda leaves: root if len(leaves) == size else plain(leaves)), log.root
    for index in sorted({0, 1, size // 2, size - 2, size - 1} & set(range(size))):
        record = log.verify(index)
        assert (record["index"], record["scope"], record["log_size"]) == (index, f"demo/{index}", size)


def test_a_log_that_lies_is_not_believed(monkeypatch):
    monkeypatch.setattr(tagout_soar, "TAGOUT_COVERED_S", 0)

    def fails(alter, said, index=300, **more):
        log = Log(600)
        alter(log)
        with pytest.raises(TagoutError, match=said):
            log.verify(index, **more)

    def entry(log):
        log.entries[300] = log.entries[300].replace(b"demo/300", b"demo/301")

    def swap(log):
        log.entries[300], log.leaves[300] = log.entries[301], log.leaves[301]

    fails(entry, "is not in the log that node-1 signed")
    fails(swap, "says that it is entry 301")
    fails(lambda log: log.leaves.__setitem__(0, bytes(32)) or log.__setattr__("leaves", log.leaves[:600]), "not in the log", index=0)
    fails(lambda log: setattr(log, "key", Ed25519PrivateKey.generate()), "is not by node-1's key")
    fails(lambda log: setattr(log, "origin", "other:" + "0" * 64), "the checkpoint is of other")
    fails(lambda log: setattr(log, "id", b"four"), "no verifier key|no key of the setting")
    fails(lambda log: log.entries.__delitem__(slice(10, None)) or log.leaves.__delitem__(slice(10, None)), "none with index 300")
    fails(lambda log: None, "is another document", digest="0" * 64)
