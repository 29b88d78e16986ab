#!/usr/bin/env python3
"""Writes the vectors: what every implementation of SPEC.md must accept and refuse.

    python3 generate.py [FOLDER [RANDOM HISTORIES]]

Needs the package `cryptography` and `ssh-keygen`. The output is the same at every run: all keys come from fixed seeds, Ed25519
signatures follow from key and message, and no clock is read. Each case says what it shall show and is judged by tagout.py;
where the two differ, nothing is written.
"""

import json
import os
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from ledger import Ledger  # noqa: E402
from tagout import *  # noqa: E402,F403
from tagout import _verify_signature  # noqa: E402

T0 = 1_795_359_600_000
AT = "2026-11-22T15:00:00Z"
DAY = 86_400_000
RANDOM_HISTORIES = 5

ALICE, BOB, CAROL, ALICE_2, DORA, BOT = (Private(n) for n in (1, 2, 3, 4, 5, 6))
ERIN, ERIN_2 = Private(7, "ssh:"), Private(8, "ssh:work")
ROOT_1, ROOT_2, ROOT_3, ROOT_4 = (Private(n) for n in (11, 12, 13, 14))
NODE, NODE_2 = Private(21), Private(22)
NEW, STRANGER = Private(31), Private(99)


def js(value):
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


TOPICS = {}


def run(work):
    try:
        return {"accept": work()}
    except Refused as refused:
        return {"reject": refused.code}


def case(topic, name, musts, inputs, work, want="accept"):
    """One case; `want` is what it shall show, and `work` how SPEC.md judges it."""
    expect = run(work)
    found = expect.get("reject", "accept")
    assert found == want, f"{topic}, {name}: {found} instead of {want}"
    cases = TOPICS.setdefault(topic, [])
    assert name not in [c["name"] for c in cases], f"{topic} has two cases named {name!r}"
    musts = [f"M{n}" for n in ([musts] if isinstance(musts, int) else musts)]
    cases.append({"name": name, "musts": musts, **inputs, "expect": expect})


# ---------------------------------------------------------------------------------------------------- a deployment


def genesis_document(**changes):
    people = [
        {"name": "alice", "kind": "person", "keys": [ALICE.line, ALICE_2.line]},
        {"name": "bob", "kind": "person", "keys": [BOB.line]},
        {"name": "carol", "kind": "person", "keys": [CAROL.line]},
        {"name": "dora", "kind": "person", "keys": [DORA.line]},
        {"name": "erin", "kind": "person", "keys": [ERIN.line, ERIN_2.line]},
        {"name": "bot", "kind": "automation", "keys": [BOT.line]},
    ]
    tighten = ["stop", "restrict", "throttle", "isolate", "revoke"]

    def role(name, principals, actions, scope, threshold=1, **flags):
        return {"name": name, "principals": principals, "actions": actions, "scopes": [scope], "threshold": threshold, **flags}

    return {
        "tagout": 1, "action": "authority", "version": 1, "deployment": "demo", "issued_at": AT, "principals": people,
        "roles": [
            role("stoppers", ["alice", "bob", "bot"], tighten, "*"),
            role("consent", ["alice", "bob", "carol"], ["release", "start", "grant"], "*", 2),
            role("team", ["dora"], ["stop", "revoke", "release", "start", "grant"], "team"),
            role("security", ["alice"], ["suspend"], "*"),
            role("half-security", ["dora"], ["suspend"], "team"),
            role("touch", ["erin"], ["release", "start"], "lab", presence=True),
            role("pin", ["erin"], ["grant"], "lab", presence=True, verification=True),
        ],
        "root": {"threshold": 2, "signers": [{"name": f"root-{n}", "key": key.line}
                                             for n, key in ((1, ROOT_1), (2, ROOT_2), (3, ROOT_3))]},
        "nodes": [{"id": 1, "key": verifier_key("demo/node-1", NODE.raw)}],
        "limits": {"ttl_ms": 10000, "lapse_grace_ms": 20000},
        **changes,
    }


GENESIS_DOC = genesis_document()
GENESIS = envelope(js(GENESIS_DOC), ROOT_1, ROOT_2)
PINNED = digest_of(GENESIS)
DEPLOYMENT = f"demo:{PINNED}"
OTHER = f"demo:{'ab' * 32}"


ENVELOPES = [GENESIS]


NUMBERS = {}


def shared(envelope_):
    """The number of an envelope in `envelopes.json`: many cases use the same. The genesis is number 0."""
    key = (envelope_["document"], *envelope_["signatures"])
    if not NUMBERS:
        NUMBERS[(GENESIS["document"], *GENESIS["signatures"])] = 0
    if key not in NUMBERS:
        NUMBERS[key] = len(ENVELOPES)
        ENVELOPES.append(envelope_)
    return NUMBERS[key]


def successor(of, version=2, signers=(ROOT_1, ROOT_2), drop=(), **changes):
    """The version after the document `of`."""
    base = json.loads(of["document"])
    for key in ("previous", "disables", "retired", "reason"):
        base.pop(key, None)
    base.update({"version": version, "deployment": DEPLOYMENT, "previous": digest_of(of), "disables": 0, **changes})
    return envelope(js({k: v for k, v in base.items() if k not in drop}), *signers)


def people(**keys):
    """The principals of the genesis with other keys for some; None takes somebody out."""
    found = [{**p, "keys": [k.line for k in keys.get(p["name"], ())] or p["keys"]} for p in GENESIS_DOC["principals"]]
    return [p for p in found if keys.get(p["name"], ()) is not None]


COUNT = [0]


def document(action, scope="a", drop=(), **more):
    COUNT[0] += 1
    base = {"tagout": 1, "deployment": DEPLOYMENT, "action": action, "id": f"c-{COUNT[0]}", "issued_at": AT}
    if action != "suspend":
        base["scope"] = scope
    base.update({"reason": "r", **more})
    return {k: v for k, v in base.items() if k not in drop}


def instant(ms):
    return datetime.fromtimestamp(ms // 1000, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S") + f".{ms % 1000:03}Z"


def grant_document(scope="a", until=T0 + DAY, epoch=PINNED, size=0, authority=1, **more):
    seen = {"epoch": epoch, "size": size, "authority": authority}
    return document("grant", scope, expires_at=instant(until), seen=seen, **more)


def shown(command):
    """A parsed command as the vectors write it."""
    out = {k: v for k, v in command.items() if k != "authority"}
    if "keys" in out:
        out["keys"] = [key_line(k) for k in out["keys"]]
    if "authority" in command:
        out["version"], out["digest"] = command["authority"]["version"], command["authority"]["digest"]
    return out


def command_case(topic, name, musts, text, want="accept", parts=None):
    """`text` as str, bytes or a document; `parts` writes a long one as [[text, times], …]."""
    if parts is not None:
        text = "".join(part * times for part, times in parts)
    if isinstance(text, dict):
        text = js(text)
    data = text if isinstance(text, bytes) else text.encode()
    inputs = {"document": {"parts": parts}} if parts else {"document": {"hex": data.hex()} if isinstance(text, bytes) else text}
    case(topic, name, musts, inputs, lambda: shown(parse_command(data)), want)


# ---------------------------------------------------------------------------------------------------- 2 JSON, 3 scopes


def json_cases():
    good = js(document("stop", "a", mode="halt"))

    def with_(old, new, base=good):
        assert old in base, old
        return base.replace(old, new, 1)

    def add(name, musts, text, want="bad-document", **more):
        command_case("json", name, musts, text, want, **more)

    add("the plain document", [2, 17, 18], good, "accept")
    add("whitespace wherever JSON has it", 2, " \t\r\n" + good.replace(",", " ,\n\t").replace(":1,", " :\r1 ,", 1) + "\n ", "accept")
    add("keys in another order", 22, js(dict(reversed(list(json.loads(good).items())))), "accept")
    add("keys and values written with escapes", 3, with_('"reason":"r"', '"r\\u0065ason":"\\u00e9\\ud83d\\ude00\\/\\"\\\\"'), "accept")
    add("text beyond ASCII", [1, 8], with_('"reason":"r"', '"reason":"Prüfung – 停止 😀"'), "accept")
    add("bytes that are not UTF-8", 1, good.encode().replace(b'"r"', b'"\xff"'))
    add("an overlong UTF-8 form", 1, good.encode().replace(b'"r"', b'"\xc0\xaf"'))
    add("a surrogate in UTF-8", 1, good.encode().replace(b'"r"', b'"\xed\xa0\x80"'))
    add("a byte order mark", 1, "\ufeff" + good)
    add("nothing", 2, "")
    add("a list", 2, f"[{good}]")
    add("a string", 2, '"stop"')
    add("something after the document", 2, good + "x")
    add("two documents", 2, good + good)
    add("a document cut short", 2, good[:-1])
    add("a comma too many", 2, good[:-1] + ",}")
    add("a comment", 2, good + "// stop")
    add("a vertical tab as whitespace", 2, "\x0b" + good)
    add("single quotes", 2, good.replace('"', "'"))
    add("one key twice", 3, with_('"reason"', '"scope":"a","reason"'))
    add("one key twice, once escaped", 3, with_('"reason"', '"sc\\u006fpe":"b","reason"'))
    add("one key twice, deep inside", 3, js(document("throttle", "a", limits={"calls_per_minute": 1})).replace('minute":1', 'minute":1,"calls_per_minute":1'))
    add("an unknown key", 4, document("stop", "a", mode="halt", until="x"))
    add("an unknown key in an inner object", 4, document("throttle", "a", limits={"calls_per_minute": 1, "calls": 2}))
    add("a key in another case", 4, with_('"scope"', '"Scope"'))
    drain = js(document("stop", "a", mode="drain", drain_ms=1000))
    add("a whole number", 5, drain, "accept")
    for text in ("1000.0", "1e3", "-1", "+1000", "01000", "1000.", '"1000"', "NaN", "0x10", "18446744073709551616", "-0"):
        add(f"the number {text}", 5, with_("1000", text, drain))
    lost = js(document("release", "a", locks=["ab" * 32], lost_from=0))
    add("the largest number", 5, with_('lost_from":0', 'lost_from":18446744073709551615', lost), "accept")
    add("a number one too large", 5, with_('lost_from":0', 'lost_from":18446744073709551616', lost))
    add("nine levels", 6, with_('"r"', '{"a":' * 8 + "1" + "}" * 8))
    add("a thousand levels", 6, "[" * 1000 + "]" * 1000)
    for name, text in (("an unescaped tab", "a\tb"), ("an unescaped line feed", "a\nb"), ("an unknown escape", "a\\x41"),
                       ("a lone high surrogate", "\\ud800"), ("a lone low surrogate", "\\udc00"),
                       ("two high surrogates", "\\ud800\\ud800"), ("an escape with three digits", "\\u00e")):
        add(name, 7, with_('"r"', f'"{text}"'))
    for name, text in (("an escaped line feed", "a\\nb"), ("an escaped NUL", "\\u0000"), ("DEL", "\x7f"), ("NEL", "\u0085"), ("no text", "")):
        add(f"a reason with {name}", 8, with_('"r"', f'"{text}"'))
    add("a reason of 1024 bytes", 8, None, "accept", parts=[[good.split('"r"')[0] + '"', 1], ["é", 512], ['"' + good.split('"r"')[1], 1]])
    add("a reason of 1025 bytes", 8, None, parts=[[good.split('"r"')[0] + '"', 1], ["é", 512], ['x"' + good.split('"r"')[1], 1]])
    add("a case that is null", 9, document("stop", "a", mode="halt", case=None))
    add("a mode that is null", 9, document("stop", "a", mode=None))
    add("an empty list", 10, document("release", "a", locks=[]))
    add("a list of numbers where digests are asked for", 10, document("release", "a", locks=[1]))
    add("a list with a null", 10, document("release", "a", locks=["ab" * 32, None]))
    for name, text in (("in capitals", "AB" * 32), ("of 63 digits", "a" * 63), ("of 65 digits", "a" * 65), ("with a letter g", "g" * 64)):
        add(f"a digest {name}", 11, document("release", "a", locks=[text]))
    add("a digest twice in a list", 12, document("release", "a", locks=["ab" * 32, "cd" * 32, "ab" * 32]))
    for text in ("2026-11-22T15:00:00Z", "2026-11-22T15:00:00+00:00", "2026-11-22T15:00:00.5Z", "1970-01-01T00:00:00Z",
                 "2028-02-29T12:00:00Z", "9999-12-31T23:59:59.999Z"):
        add(f"the instant {text}", 13, with_(AT, text), "accept")
    for text in ("2026-11-22T15:00:00", "2026-11-22T15:00:00+01:00", "2026-11-22T15:00:00-00:00", "2026-11-22 15:00:00Z",
                 "2026-11-22t15:00:00Z", "2026-11-22T15:00:00z", "2026-11-22T15:00Z", "1969-12-31T23:59:59Z", "2026-02-29T00:00:00Z",
                 "2026-13-01T00:00:00Z", "2026-11-22T24:00:00Z", "2026-11-22T15:60:00Z", "2026-11-22T15:00:61Z",
                 "2026-11-22T15:00:00.Z", "2026-11-22T15:00:00.5+0530Z", "10000-01-01T00:00:00Z", "26-11-22T15:00:00Z", "1795359600"):
        add(f"the instant {text}", 13, with_(AT, text), "bad-document")
    add("nine digits of a second", 14, with_(AT, "2026-11-22T15:00:00.123987654Z"), "accept")
    add("a leap second", 14, with_(AT, "2026-12-31T23:59:60Z"), "accept")
    grant = grant_document(essential=["x"])
    for text, want in (("a.b_c-9", "accept"), ("x" * 64, "accept"), ("x" * 65, "bad-document"), ("Handover", "bad-document"), ("a b", "bad-document"), ("", "bad-document")):
        add(f"the name {text[:12]!r} of {len(text)}", 15, {**grant, "essential": [text]}, want)
    for text, want in (("!~", "accept"), ("x" * 128, "accept"), ("x" * 129, "bad-document"), ("a b", "bad-document"), ("é", "bad-document")):
        add(f"the id {text[:12]!r} of {len(text)}", 16, document("stop", "a", mode="halt", id=text), want)
    add("no tagout", 17, document("stop", "a", mode="halt", drop=["tagout"]))
    add("tagout 2", 17, document("stop", "a", mode="halt", tagout=2))
    add("tagout as a string", 17, document("stop", "a", mode="halt", tagout="1"))
    for text in ("demo", f"demo:{PINNED.upper()}", f":{PINNED}", f"Demo:{PINNED}", f"demo:{PINNED}:x", f"demo:{PINNED[:-1]}"):
        add(f"the deployment {text[:12]} of {len(text)}", 18, document("stop", "a", mode="halt", deployment=text))


def scope_cases():
    def judge(text):
        if not is_scope(text):
            raise Refused("bad-scope")
        return text

    for text in ("*", "a", "moltbook/support/agent_22", "A/b.c-d_e/0", "...", "a/b/c/d/e/f/g/h", "x" * 64, "-", "a/.b"):
        case("scope", f"the scope {text[:24]!r} of {len(text)}", 19, {"scope": text}, lambda: judge(text))
    for text in ("", "/", "/a", "a/", "a//b", ".", "..", "a/..", "a/./b", "a b", "a/*", "**", "é", "a\n", "a\\b", "a:b", "a,b", "a%2fb",
                 "a/b/c/d/e/f/g/h/i", "x" * 65):
        case("scope", f"the scope {text[:24]!r} of {len(text)}", 19, {"scope": text}, lambda: judge(text), "bad-scope")
    for scope, other in (("*", "*"), ("*", "a/b"), ("a", "a"), ("a", "a/b"), ("a", "ab"), ("a/b", "a"), ("a", "*"), ("A", "a"), ("a/b", "a/b/c"),
                         ("a/b", "a/bc"), ("a.b", "a/b")):
        case("scope", f"whether {scope} covers {other}", 20, {"scope": scope, "other": other}, lambda: covers(scope, other))


# ---------------------------------------------------------------------------------------------------- 4 commands, 5 others

ID_A, ID_B = "aa" * 32, "bb" * 32


def command_cases():
    def add(name, musts, text, want="accept", **more):
        command_case("command", name, musts, text, want, **more)

    def bad(name, musts, text):
        add(name, musts, text, "bad-document")

    for mode in ("halt", "pause"):
        add(f"a {mode}", [22, 25], document("stop", "a/b", mode=mode))
    add("a drain, with its case", [22, 25], document("stop", "a/b", mode="drain", drain_ms=3_600_000, case="INC-4711"))
    add("a stop of the fleet", 22, document("stop", "*", mode="halt"))
    add("a restrict", 22, document("restrict", "a", case="x"))
    add("an isolate", 22, document("isolate", "a"))
    add("a throttle of calls", [22, 27], document("throttle", "a", limits={"calls_per_minute": 0}))
    add("a throttle of both", [22, 27], document("throttle", "a", limits={"calls_per_minute": 10**12, "tokens_per_minute": 5}, case="x"))
    add("a revoke", 22, document("revoke", "a", grants=[ID_A, ID_B]))
    add("a suspend", [22, 28], document("suspend", keys=[BOB.line + " bob@laptop", ERIN.line]))
    add("a release", [22, 29], document("release", "a", locks=[ID_A, ID_B]))
    add("a release of a restore's lock", 22, document("release", "*", locks=[ID_A], lost_from=17))
    add("a release of many", [22, 29], document("release", "*", locks={"count": 100_000, "root": ID_A, "before": 9}))
    add("a start of many, by whom", [22, 29], document("start", "a", locks={"count": 1, "root": ID_A, "before": 2**64 - 1, "by": "bot"}))
    add("a start", [22, 29], document("start", "a/b", locks=[ID_B]))
    add("a grant", [22, 30], grant_document("a", essential=["handover", "alarm"], limits={"tokens_per_minute": 7}))
    add("a grant without terms", 22, grant_document("a"))
    for action, field in (("stop", "case"), ("release", "lost_from"), ("grant", "limits")):
        base = {"stop": {"mode": "halt"}, "release": {"locks": [ID_A]}, "grant": {}}[action]
        make = grant_document("a") if action == "grant" else document(action, "a", **base)
        bad(f"a {action} with {field} as a boolean", 22, {**make, field: True})
    every = {"stop": {"mode": "halt"}, "throttle": {"limits": {"calls_per_minute": 1}}, "revoke": {"grants": [ID_A]},
             "suspend": {"keys": [BOB.line]}, "release": {"locks": [ID_A]}, "start": {"locks": [ID_A]}}
    for action, more in every.items():
        whole = document(action, "a", **more)
        for key in ("deployment", "id", "issued_at", "reason", *([] if action == "suspend" else ["scope"]), *(k for k in more if k != "mode")):
            if action == "stop" or key in more or key == "scope":
                bad(f"a {action} without {key}", [22, 31] if key == "scope" else 22, {k: v for k, v in whole.items() if k != key})
    for key in ("expires_at", "seen"):
        bad(f"a grant without {key}", 22, {k: v for k, v in grant_document("a").items() if k != key})
    for key in ("epoch", "size", "authority"):
        doc = grant_document("a")
        bad(f"a grant that does not say which {key} was seen", 22, {**doc, "seen": {k: v for k, v in doc["seen"].items() if k != key}})
    bad("a grant that saw authority 0", 22, grant_document("a", authority=0))
    bad("a grant that saw authority 4097", 22, grant_document("a", authority=4097))
    bad("a suspend with a scope", 22, {**document("suspend", keys=[BOB.line]), "scope": "*"})
    bad("a release with a case", 22, document("release", "a", locks=[ID_A], case="x"))
    bad("a start with lost_from", 22, document("start", "a", locks=[ID_A], lost_from=1))
    bad("a restrict with a mode", 22, document("restrict", "a", mode="halt"))
    bad("a scope that is none", [19, 22], document("stop", "a/../b", mode="halt"))
    bad("an unknown action", 23, document("terminate", "a"))
    bad("an action in capitals", 23, document("Stop", "a", mode="halt"))
    add("a stop signed in advance, long ago", 24, document("stop", "a", mode="halt", issued_at="1970-01-01T00:00:00Z"))
    add("a stop from the future", 24, document("stop", "a", mode="halt", issued_at="9999-01-01T00:00:00Z"))
    bad("an unknown mode", 25, document("stop", "a", mode="freeze"))
    bad("a drain without its time", 25, document("stop", "a", mode="drain"))
    bad("a drain of no time", 25, document("stop", "a", mode="drain", drain_ms=0))
    bad("a drain of more than an hour", 25, document("stop", "a", mode="drain", drain_ms=3_600_001))
    bad("a halt with a time", 25, document("stop", "a", mode="halt", drain_ms=5))
    add("a stop without a mode", 26, document("stop", "a"))
    add("a stop without an action", 26, document("stop", "a", mode="pause", drop=["action"]))
    add("a stop by agent_id", 26, document("stop", agent_id="a/b", drop=["scope", "action"]))
    add("a stop by agent_id with everything else", 26, document("stop", agent_id="a/b", mode="drain", drain_ms=5, drop=["scope"]))
    bad("a stop with scope and agent_id", 31, document("stop", "a", agent_id="a"))
    bad("a release by agent_id", 31, document("release", agent_id="a", locks=[ID_A], drop=["scope"]))
    bad("a throttle with empty limits", 27, document("throttle", "a", limits={}))
    bad("a grant with empty limits", 27, grant_document("a", limits={}))
    bad("a throttle over the largest limit", 27, document("throttle", "a", limits={"calls_per_minute": 10**12 + 1}))
    bad("a suspend that names a key twice", 28, document("suspend", keys=[BOB.line, BOB.line + " again"]))
    bad("a suspend of an RSA key", [28, 40], document("suspend", keys=["ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQ=="]))
    bad("a suspend of 65 keys", 28, document("suspend", keys=[Private(bytes([0, n]) * 16).line for n in range(65)]))
    bad("locks as a string", 29, document("release", "a", locks=ID_A))
    bad("a bulk list of none", 29, document("release", "a", locks={"count": 0, "root": ID_A, "before": 9}))
    bad("a bulk list of 100,001", 29, document("release", "a", locks={"count": 100_001, "root": ID_A, "before": 9}))
    bad("a bulk list before entry 0", 29, document("release", "a", locks={"count": 1, "root": ID_A, "before": 0}))
    bad("a bulk list by nobody", 29, document("release", "a", locks={"count": 1, "root": ID_A, "before": 1, "by": ""}))
    bad("a bulk list without its root", 29, document("release", "a", locks={"count": 1, "before": 1}))
    bad("a bulk list with ids", 29, document("release", "a", locks={"count": 1, "root": ID_A, "before": 1, "ids": [ID_A]}))
    ids = [hexdigest(u32(n)) for n in range(401)]
    add("400 locks", 29, document("release", "a", locks=ids[:400]))
    bad("401 locks", 29, document("release", "a", locks=ids))
    bad("an essential class twice", 30, grant_document("a", essential=["x", "x"]))
    bad("no essential class in the list", 30, grant_document("a", essential=[]))
    bad("17 essential classes", 30, grant_document("a", essential=[f"c{n}" for n in range(17)]))
    for what, base, size in (("stop", js(document("stop", "a", mode="halt")), 4096), ("release", js(document("release", "a", locks=[ID_A])), 32768)):
        for over in (0, 1):
            parts = [[base, 1], [" ", size + over - len(base)]]
            add(f"a {what} of {size + over} bytes", 21, None, "too-large" if over else "accept", parts=parts)


def placing_cases():
    trip = {"tagout": 1, "deployment": DEPLOYMENT, "trip": "a/b", "nonce": ID_A, "issued_at": AT, "instance": "host-1:4711", "reason": "loop"}
    restore = {"tagout": 1, "deployment": DEPLOYMENT, "restore": {"number": 2, "id": ID_A}, "issued_at": AT,
               "authority": {"version": 1, "digest": PINNED}, "checkpoint": {"size": 9, "root": ID_B}, "lost_from": 9, "reason": "fire"}

    def add(name, musts, doc, want="accept", parts=None):
        text = "".join(p * n for p, n in parts) if parts else doc if isinstance(doc, str) else js(doc)
        inputs = {"document": {"parts": parts} if parts else text}
        case("placing", name, musts, inputs, lambda: {"id": hexdigest(text.encode()), **parse_placing(text.encode())}, want)

    add("a trip", [32, 33], trip)
    for key in trip:
        if key != "trip":
            add(f"a trip without {key}", 33, {k: v for k, v in trip.items() if k != key}, "bad-document")
    add("a trip with a case", 33, {**trip, "case": "x"}, "bad-document")
    add("a trip with an instance of 59 bytes", 33, {**trip, "instance": "x" * 59})
    add("a trip with an instance of 60 bytes", 33, {**trip, "instance": "x" * 60}, "bad-document")
    add("a trip of 4097 bytes", 33, None, "too-large", parts=[[js(trip), 1], [" ", 4097 - len(js(trip))]])
    add("a restore", [32, 35, 36], restore)
    for key in restore:
        if key != "restore":
            add(f"a restore without {key}", 35, {k: v for k, v in restore.items() if k != key}, "bad-document")
    add("a restore into epoch 1", 35, {**restore, "restore": {"number": 1, "id": ID_A}}, "bad-document")
    add("a restore of 4097 bytes", 35, None, "too-large", parts=[[js(restore), 1], [" ", 4097 - len(js(restore))]])
    add("a restore that loses what is before the log", 36, {**restore, "lost_from": 0}, "bad-document")
    add("a restore that loses less than nothing", 36, {**restore, "lost_from": 10}, "bad-document")
    for mode, more in (("halt", {}), ("drain", {"drain_ms": 5}), ("pause", {})):
        add(f"a stop with {mode}", 32, document("stop", "a", mode=mode, **more))
    add("the same stop with a space is another lock", 32, js(document("stop", "a", mode="halt")) + " ")
    for action, more in (("restrict", {}), ("isolate", {}), ("throttle", {"limits": {"calls_per_minute": 3}})):
        add(f"a {action}", 32, document(action, "a", **more))
    add("a release places no lock", 32, document("release", "a", locks=[ID_A]), "bad-document")
    add("a grant places no lock", 32, grant_document("a"), "bad-document")


# ---------------------------------------------------------------------------------------------------- 6 signatures


def openssh_private_key(private):
    """The file that ssh-keygen reads (OpenSSH PROTOCOL.key), without a passphrase."""
    check = b"\x00\x00\x00\x2a" * 2
    inner = check + string(b"ssh-ed25519") + string(private.raw) + string(private.seed + private.raw) + string(b"vector")
    inner += bytes(range(1, 1 + -len(inner) % 8))
    blob = b"openssh-key-v1\x00" + string(b"none") + string(b"none") + string(b"") + u32(1) + string(key_blob(private.key)) + string(inner)
    text = b64(blob)
    lines = [text[i : i + 70] for i in range(0, len(text), 70)]
    return "\n".join(["-----BEGIN OPENSSH PRIVATE KEY-----", *lines, "-----END OPENSSH PRIVATE KEY-----", ""])


def ssh_keygen(private, data, hash_name="sha512"):
    """What the real ssh-keygen makes of it; it must be what `sign` makes."""
    with tempfile.TemporaryDirectory() as folder:
        key, message = os.path.join(folder, "key"), os.path.join(folder, "message")
        with open(os.open(key, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
            file.write(openssh_private_key(private))
        with open(message, "wb") as file:
            file.write(data)
        command = ["ssh-keygen", "-Y", "sign", "-n", "tagout-command", "-O", f"hashalg={hash_name}", "-f", key, message]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with open(message + ".sig") as file:
            armored = file.read()
    assert armored == sign(private, data, hash_name), "ssh-keygen signs otherwise"
    return armored


SMALL_ORDER = {
    "the neutral point": b"\x01" + b"\x00" * 31,
    "a point of order 2": (P - 1).to_bytes(32, "little"),
    "a point of order 4": b"\x00" * 32,
    "a point of order 8": bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
}


def sshsig_cases():
    def proven(armored, data):
        found = _verify_signature(armored, data)
        return {**found, "key": key_line(found["key"])}

    def add(name, musts, armored, want="accept", text="{}"):
        case("sshsig", name, musts, {"document": text, "signature": armored}, lambda: proven(armored, text.encode()), want)

    def line(name, musts, text, want="accept"):
        def judge():
            key = parse_key_line(text)
            return {"line": key_line(key), "blob": key_blob(key).hex(), "fingerprint": fingerprint(key)}

        case("sshsig", name, musts, {"key_line": text}, judge, want)

    def blob_line(algorithm, blob):
        return f"{algorithm} {b64(blob)}"

    line("a key line", [39, 40], ALICE.line)
    line("a key line with a comment", 39, ALICE.line + " alice@laptop of alice")
    line("a key line with tabs", 39, "\t" + ALICE.line.replace(" ", "\t") + "\n")
    line("a token's key line", [40, 42], ERIN_2.line)
    line("a token's key line, shortest application", 42, ERIN.line)
    line("a token's key line, longest application", 42, Private(7, "ssh:" + "x" * 60).line)
    line("an empty line", 39, "", "algorithm")
    line("a line without a key", 39, PLAIN, "malformed")
    line("a line with options before it", 39, "restrict " + ALICE.line, "algorithm")
    line("an RSA key", 40, blob_line("ssh-rsa", string(b"ssh-rsa") + string(b"\x01\x00\x01") + string(b"\x00" * 64)), "algorithm")
    line("an ECDSA key", 40, "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTY=", "algorithm")
    line("another algorithm in the blob", 40, blob_line(PLAIN, string(b"ssh-rsa") + string(b"x")), "algorithm")
    line("a plain name before a token's key", 40, blob_line(PLAIN, key_blob(ERIN.key)), "malformed")
    line("a token's name before a plain key", 40, blob_line(TOKEN, key_blob(ALICE.key)), "malformed")
    for size in (31, 33):
        line(f"a key of {size} bytes", 41, blob_line(PLAIN, string(PLAIN.encode()) + string((ALICE.raw + b"x")[:size])), "malformed")
    line("a key blob with a byte left over", 41, blob_line(PLAIN, key_blob(ALICE.key) + b"x"), "malformed")
    line("a key blob cut short", 41, blob_line(PLAIN, key_blob(ALICE.key)[:-1]), "malformed")
    line("a key blob with a length beyond its end", 41, blob_line(PLAIN, b"\xff\xff\xff\xff" + key_blob(ALICE.key)[4:]), "malformed")
    for name, application in (("a web site's", "webauthn.example"), ("no", ""), ("a long", "ssh:" + "x" * 61), ("a strange", "ssh:\n"), ("a non-ASCII", "ssh:é")):
        line(f"{name} application", 42, Private(7, application).line, "application")
    for name, raw in SMALL_ORDER.items():
        line(f"{name} as a key", 43, blob_line(PLAIN, string(PLAIN.encode()) + string(raw)), "weak-key")
    line("a key that is no point", 43, blob_line(PLAIN, string(PLAIN.encode()) + string(b"\x02" + b"\x00" * 31)), "malformed")
    line("base64 without padding", 44, Private(7, "ssh:ab").line.rstrip("="), "malformed")
    line("base64 with unused bits", 44, Private(7, "ssh:ab").line[:-2] + "J=" if Private(7, "ssh:ab").line.endswith("=") else "", "malformed")
    line("base64 for URLs", 44, ALICE.line.replace("A", "-", 1), "malformed")

    text = "{}"
    data = text.encode()
    message = preimage(data)
    signature = ALICE.sign(message)
    plain = string(PLAIN.encode()) + string(signature)
    good = sign(ALICE, data)
    kb = key_blob(ALICE.key)

    add("by ssh-keygen", [45, 48, 50, 52], ssh_keygen(ALICE, data))
    add("by ssh-keygen with sha256", 50, ssh_keygen(BOB, data, "sha256"))
    stop = js(document("stop", "a", mode="halt")) + "\n"
    add("by ssh-keygen over a stop with its newline", [52, 57], ssh_keygen(ALICE, stop.encode()), text=stop)
    add("a newline less, as `curl -d` sends it", [52, 57], sign(ALICE, stop.encode()), "mismatch", text=stop[:-1])
    add("lines that end in CR LF", 45, good.replace("\n", "\r\n"))
    add("base64 in one line", 45, armor(sshsig_blob(kb, plain), width=1000))
    add("no newline at the end", 45, good.rstrip("\n"))
    add("many newlines at the end", 45, good + "\r\n\n")
    add("a space before the armor", 45, " " + good, "armor")
    add("a space at the end of a line", 45, good.replace("\n", " \n", 2), "armor")
    add("text before the armor", 45, "x\n" + good, "armor")
    add("text after the armor", 45, good + "x", "armor")
    add("the END marker on a line with base64", 45, good.replace("\n" + END, END), "armor")
    add("the BEGIN marker on a line with base64", 45, good.replace(BEGIN + "\n", BEGIN), "armor")
    add("no END marker", 45, good.replace(END, ""), "armor")
    add("armor of another kind", 45, good.replace("SSH SIGNATURE", "PGP SIGNATURE"), "armor")
    add("two signatures in one", 45, good + good, "armor")
    add("an empty text", 45, "", "armor")
    add("an armored signature of 1024 bytes", 46, good + "\n" * (1024 - len(good)))
    add("an armored signature of 1025 bytes", 46, good + "\n" * (1025 - len(good)), "too-large")
    blob = sshsig_blob(kb, plain)
    add("another magic", 47, armor(sshsig_blob(kb, plain, magic=b"SSHSIX")), "malformed")
    add("version 0", 47, armor(sshsig_blob(kb, plain, version=0)), "malformed")
    add("version 2", 47, armor(sshsig_blob(kb, plain, version=2)), "malformed")
    add("a byte left over", 41, armor(blob + b"x"), "malformed")
    add("a byte too few", 41, armor(blob[:-1]), "malformed")
    add("a byte left over inside", 41, armor(sshsig_blob(kb, plain + b"x")), "malformed")
    add("a signature of 63 bytes", 41, armor(sshsig_blob(kb, string(PLAIN.encode()) + string(signature[:63]))), "malformed")
    add("made for git", 48, sign(ALICE, data, namespace=b"git"), "namespace")
    add("made for a longer namespace", 48, sign(ALICE, data, namespace=b"tagout-command2"), "namespace")
    reserved = string(PLAIN.encode()) + string(ALICE.sign(preimage(data, reserved=b"x")))
    add("a reserved field that is signed", 49, armor(sshsig_blob(kb, reserved, reserved=b"x")), "malformed")
    add("sha256 named, sha512 signed", 50, armor(sshsig_blob(kb, plain, hash_name="sha256")), "mismatch")
    add("the hash sha384", 50, armor(sshsig_blob(kb, string(PLAIN.encode()) + string(ALICE.sign(preimage(data, "sha384"))), hash_name="sha384")), "malformed")
    add("the hash SHA512", 50, armor(sshsig_blob(kb, plain, hash_name="SHA512")), "malformed")
    add("a signature that says it is RSA", 51, armor(sshsig_blob(kb, string(b"rsa-sha2-512") + string(signature))), "algorithm-of-key")
    add("a plain signature by a token's key", 51, armor(sshsig_blob(key_blob(ERIN.key), string(PLAIN.encode()) + string(ERIN.sign(message)))), "algorithm-of-key")
    add("a token's signature by a plain key", 51, armor(sshsig_blob(kb, string(TOKEN.encode()) + string(signature) + u8(5) + u32(7))), "algorithm-of-key")
    add("another document", 52, good, "mismatch", text="{} ")
    add("another key", 52, armor(sshsig_blob(key_blob(BOB.key), plain)), "mismatch")
    s = int.from_bytes(signature[32:], "little")
    add("S plus the group order", 52, armor(sshsig_blob(kb, string(PLAIN.encode()) + string(signature[:32] + (s + L).to_bytes(32, "little")))), "mismatch")
    add("a bit of R", 52, armor(sshsig_blob(kb, string(PLAIN.encode()) + string(bytes([signature[0] ^ 1]) + signature[1:]))), "mismatch")
    # R is the neutral point and S = H(R, A, M) a: the equation holds, and it is refused all the same.
    h = hashlib.sha512(ALICE.seed).digest()
    a = int.from_bytes(bytes([h[0] & 248]) + h[1:31] + bytes([h[31] & 127 | 64]), "little")
    r = SMALL_ORDER["the neutral point"]
    k = int.from_bytes(hashlib.sha512(r + ALICE.raw + message).digest(), "little") % L
    forged = r + (k * a % L).to_bytes(32, "little")
    Ed25519PublicKey.from_public_bytes(ALICE.raw).verify(forged, message)
    add("R of small order, and the equation holds", 52, armor(sshsig_blob(kb, string(PLAIN.encode()) + string(forged))), "mismatch")
    weak = string(PLAIN.encode()) + string(r)
    add("a key of small order, for which everything verifies", [43, 52], armor(sshsig_blob(weak, string(PLAIN.encode()) + string(r + b"\x00" * 32))), "weak-key")

    for flags in (0x00, 0x01, 0x04, 0x05, 0x1D, 0x3F):
        add(f"a token with flags {flags:#04x}", [53, 55] if flags != 0x3F else [53, 54, 55], sign(ERIN, data, flags=flags))
    for flags in (0x41, 0x81, 0xC1, 0x45):
        add(f"a token with flags {flags:#04x}", 54, sign(ERIN, data, flags=flags), "more-is-signed")
    add("a token that counts from the start", 56, sign(ERIN, data, counter=0))
    add("a token that counts to the end", 56, sign(ERIN, data, counter=2**32 - 1))
    add("a token with sha256", [50, 53], sign(ERIN_2, data, "sha256"))

    def token(key, signed_by, flags=5, counter=7, signed_flags=None, signed_counter=None):
        f, c = (flags if signed_flags is None else signed_flags), (counter if signed_counter is None else signed_counter)
        raw = signed_by.sign(token_preimage(signed_by.key["application"], f, c, message))
        return armor(sshsig_blob(key_blob(key.key), string(TOKEN.encode()) + string(raw) + u8(flags) + u32(counter)))

    add("a presence flag that the token did not sign", 53, token(ERIN, ERIN, flags=5, signed_flags=4), "mismatch")
    add("a counter that the token did not sign", 53, token(ERIN, ERIN, counter=8, signed_counter=7), "mismatch")
    add("made for another application", 53, token(ERIN, Private(7, "ssh:work")), "mismatch")
    add("a token's key over the plain preimage", 53, armor(sshsig_blob(key_blob(ERIN.key), string(TOKEN.encode()) + string(ERIN.sign(message)) + u8(5) + u32(7))), "mismatch")
    add("a token's signature without its counter", 41, armor(sshsig_blob(key_blob(ERIN.key), string(TOKEN.encode()) + string(signature) + u8(5))), "malformed")


def envelope_cases():
    def add(name, musts, envelope_, want="accept", parts=None):
        def judge():
            check_bounds(envelope_)
            return {"digest": digest_of(envelope_)}

        inputs = {"document": {"parts": parts} if parts else envelope_["document"], "signatures": envelope_["signatures"]}
        case("envelope", name, musts, inputs, judge, want)

    add("one signature", [58, 59], {"document": "{}", "signatures": ["s"]})
    add("sixteen signatures change no digest", [58, 59], {"document": "{}", "signatures": ["s"] * 16})
    add("no signature", 58, {"document": "{}", "signatures": []}, "unsigned")
    add("seventeen signatures", 58, {"document": "{}", "signatures": ["s"] * 17}, "too-large")
    add("a signature of 1025 bytes", 58, {"document": "{}", "signatures": ["s", "é" * 512 + "x"]}, "too-large")
    for size, want in ((32768, "accept"), (32769, "too-large")):
        add(f"a document of {size} bytes", 58, {"document": " " * size, "signatures": ["s"]}, want, parts=[[" ", size]])
    add("a space more is another digest", 59, {"document": "{} ", "signatures": ["s"]})


# ---------------------------------------------------------------------------------------------------- 8 the authority


def nodes_cases(add, small):
    def node(n, **changes):
        doc = {"id": n, "key": verifier_key(f"demo/node-{n}", (NODE, NODE_2)[n - 1].raw), "address": f"10.0.0.{n}:7471", **changes}
        return {k: v for k, v in doc.items() if v is not None}

    longest = ".".join(["a" * 63] * 3 + ["b" * 61])
    for address in ("node-1.example:7471", "localhost:1", "10.0.0.1:65535", "[fd00::1]:7471", "[::1]:7471", "[1:0:2::]:7471",
                    "1.example:7471", "a:7471", "0x10.a-b.c--d:80", f"{longest}:65535"):
        add(f"a node at {address}", 177, small(nodes=[node(1, address=address)]), "accept")
    for address in ("node-1.example", ":7471", "node-1.example:", "node-1.example:0", "node-1.example:65536", "node-1.example:07471",
                    "node-1.example:+1", "node-1.example:7471 ", "Node-1.example:7471", "node_1:7471", "-a.example:7471", "a-:7471",
                    "a..b:7471", "example.:7471", ".example:7471", "nöde:7471", "10.0.0.256:7471", "10.0.0:7471", "10.0.0.01:7471",
                    "7471:7471", "0.0.0.0:7471", "[::]:7471", "::1:7471", "[fd00:0::1]:7471", "[FD00::1]:7471", "[fd00::1%eth0]:7471",
                    "[1:0:2:3:4:5:6:7]", "[::ffff:10.0.0.1]:7471", "[::10.0.0.1]:7471", "[10.0.0.1]:7471", "[node-1]:7471", "https://node-1:7471",
                    "node-1:7471/", f"{'a' * 64}:7471", f"b{longest}:7471", ""):
        add(f"a node at {address}", 177, small(nodes=[node(1, address=address)]))
    add("an address that is no text", 177, small(nodes=[node(1, address=7471)]))
    add("two nodes", [60, 178], small(nodes=[node(1), node(2)]), "accept")
    add("a voter and a learner", [60, 178], small(nodes=[node(1), node(2, learner=True)]), "accept")
    add("a learner that does not say so by true", 60, small(nodes=[node(1), node(2, learner=False)]))
    add("a learner by a number", 60, small(nodes=[node(1), node(2, learner=1)]))
    add("a learner alone", 178, small(nodes=[node(1, learner=True)]))
    add("learners alone", 178, small(nodes=[node(1, learner=True), node(2, learner=True)]))
    add("two nodes at one address", 178, small(nodes=[node(1), node(2, address="10.0.0.1:7471")]))
    add("two nodes at two ports of one host", 178, small(nodes=[node(1), node(2, address="10.0.0.1:7473")]), "accept")
    add("two nodes, one without an address", 178, small(nodes=[node(1, address=None), node(2)]))
    add("two nodes without addresses", 178, small(nodes=[node(1, address=None), node(2, address=None)]))


def summary(a):
    return {"version": a["version"], "digest": a["digest"], "deployment": a["deployment"], "disables": a["disables"],
            "principals": [p["name"] for p in a["principals"]], "roles": [r["name"] for r in a["roles"]],
            "root": [s["name"] for s in a["root"]["signers"]], "nodes": [{k: n[k] for k in ("id", "name", "address", "learner")} for n in a["nodes"]], "limits": a["limits"],
            "retired": [r["principal"] for r in a["retired"]], **({"enrolment": True} if a["enrolment"] else {})}


def authority_cases():
    def add(name, musts, doc, want="bad-document"):
        text = js(doc)
        case("authority", name, musts, {"document": text}, lambda: summary(parse_authority(text.encode())), want)

    def small(**changes):
        """A small one, to keep the vectors short."""
        doc = {"tagout": 1, "action": "authority", "version": 1, "deployment": "demo", "issued_at": AT,
               "principals": [{"name": "alice", "kind": "person", "keys": [ALICE.line]}, {"name": "bot", "kind": "automation", "keys": [BOT.line]}],
               "roles": [{"name": "stop", "principals": ["alice", "bot"], "actions": ["stop"], "scopes": ["*"], "threshold": 1}],
               "root": {"threshold": 1, "signers": [{"name": "root-1", "key": ROOT_1.line}]},
               "nodes": [{"id": 1, "key": verifier_key("demo/node-1", NODE.raw)}], "limits": {"ttl_ms": 2000, "lapse_grace_ms": 0}}
        doc.update(changes)
        return {k: v for k, v in doc.items() if v is not None}

    def role(**changes):
        return small(roles=[{**small()["roles"][0], **changes}])

    def person(name, *keys):
        return {"name": name, "kind": "person", "keys": [k.line for k in keys]}

    later = {"version": 2, "deployment": DEPLOYMENT, "previous": PINNED, "disables": 0}
    retired = {"key": BOB.line, "principal": "alice", "grants": [ID_A]}
    add("a small genesis", [60, 18], small(), "accept")
    add("the genesis of these vectors", 60, GENESIS_DOC, "accept")
    add("a later version", 60, small(**later, reason="r", retired=[retired]), "accept")
    for key in small():
        add(f"no {key}", 60, small(**{key: None}))
    for key in ("previous", "disables"):
        add(f"a later version without {key}", 60, small(**{**later, key: None}))
    for key, value in (("previous", PINNED), ("disables", 0), ("retired", [retired]), ("reason", "r"), ("id", "x")):
        add(f"a genesis with {key}", 60, small(**{key: value}))
    add("a genesis with the full deployment", [60, 18], small(deployment=DEPLOYMENT))
    add("a later version with the name alone", [60, 18], small(**{**later, "deployment": "demo"}))
    add("version 0", 60, small(version=0))
    add("version 4097", 60, small(**{**later, "version": 4097}))
    add("a ttl of 1999 ms", 60, small(limits={"ttl_ms": 1999, "lapse_grace_ms": 0}))
    add("a ttl of 60001 ms", 60, small(limits={"ttl_ms": 60001, "lapse_grace_ms": 0}))
    add("the largest limits", 60, small(limits={"ttl_ms": 60000, "lapse_grace_ms": 120000}), "accept")
    add("a grace of 120001 ms", 60, small(limits={"ttl_ms": 2000, "lapse_grace_ms": 120001}))
    add("a principal of another kind", 60, small(principals=[{**small()["principals"][0], "kind": "robot"}, small()["principals"][1]]))
    add("a principal without keys", 60, small(principals=[person("alice"), small()["principals"][1]]))
    add("a role for the authority", 60, role(actions=["authority"]))
    add("a role for refusals", 60, role(actions=["refuse"]))
    add("a role with a bad scope", [60, 19], role(scopes=["a//b"]))
    add("presence that is no boolean", 60, role(presence=1))
    add("a node key that is none", [60, 146], small(nodes=[{"id": 1, "key": "demo/node-1+00000000+" + b64(b"\x01" + NODE.raw)}]))
    add("a node with id 0", 60, small(nodes=[{"id": 0, "key": verifier_key("n", NODE.raw)}]))
    bot = small()["principals"][1]
    add("one key for two people", 61, small(principals=[person("alice", ALICE), bot, person("bob", ALICE)]))
    add("one key twice for one person", 61, small(principals=[person("alice", ALICE, ALICE), bot]))
    add("one point as a plain and a token's key", 61, small(principals=[person("alice", ALICE), bot, person("bob", Private(1, "ssh:"))]))
    add("one point for two applications", 61, small(principals=[person("alice", Private(1, "ssh:"), Private(1, "ssh:x")), bot]))
    add("a principal's key as a root signer's", 61, small(root={"threshold": 1, "signers": [{"name": "root-1", "key": ALICE.line}]}))
    add("a principal's key as a node's", 61, small(nodes=[{"id": 1, "key": verifier_key("n", ALICE.raw)}]))
    add("a retired key that is in use", 61, small(**later, retired=[{**retired, "key": ALICE.line}]))
    add("two principals of one name", 62, small(principals=[person("alice", ALICE), person("alice", BOB), bot]))
    add("two roles of one name", 62, small(roles=small()["roles"] * 2))
    add("two root signers of one name", 62, small(root={"threshold": 1, "signers": [{"name": "r", "key": k.line} for k in (ROOT_1, ROOT_2)]}))
    add("two nodes of one name", 62, small(nodes=[{"id": i, "key": verifier_key("n", k.raw)} for i, k in ((1, NODE), (2, NODE_2))]))
    add("two nodes of one id", 62, small(nodes=[{"id": 1, "key": verifier_key(f"n{i}", k.raw)} for i, k in ((1, NODE), (2, NODE_2))]))
    nodes_cases(add, small)
    add("a role for a stranger", 63, role(principals=["alice", "mallory"]))
    add("a role that names somebody twice", 63, role(principals=["alice", "alice"]))
    add("a threshold of 0", 64, role(threshold=0))
    add("a threshold above the people", 64, role(principals=["alice"], actions=["grant"], threshold=2))
    add("a root threshold of 0", 64, small(root={**small()["root"], "threshold": 0}))
    add("a root threshold above the signers", 64, small(root={**small()["root"], "threshold": 2}))
    add("two signatures for a stop", 65, role(threshold=2))
    add("two signatures for a stop or a grant", 65, small(principals=[person("alice", ALICE), person("bob", BOB)], roles=[
        {"name": "x", "principals": ["alice", "bob"], "actions": ["grant", "stop"], "scopes": ["*"], "threshold": 2}]))
    for action in ("release", "start", "grant"):
        add(f"an automation that may {action}", 66, role(actions=["stop", action]))
    add("an automation that may do all that tightens", 66, role(actions=["stop", "restrict", "throttle", "isolate", "revoke", "suspend"]), "accept")
    add("a retired key of nobody", 67, small(**later, retired=[{**retired, "principal": "bob"}]))

    def who(name, musts, action, scope, signers, want="accept", text=None):
        signed = envelope(text or js(document(action, scope)), *signers)
        inputs = {"action": action, "scope": scope, "envelope": shared(signed)}
        case("authority", name, musts, inputs, lambda: Trust(GENESIS, PINNED).authorise(action, scope, signed), want)

    stray = sign(ALICE, b"{}")
    who("one person stops", 71, "stop", "a", [ALICE])
    who("an automation stops", 71, "stop", "a", [BOT])
    who("a stray signature spoils nothing", 68, "stop", "a", [stray, "no signature", BOT])
    who("a stranger beside a signer", [68, 69], "stop", "a", [STRANGER, BOB])
    who("only stray signatures", [68, 73], "stop", "a", [stray, "x"], "no-valid-signature")
    who("only a stranger", [69, 73], "stop", "a", [STRANGER], "no-valid-signature")
    who("a root signer is no principal", [69, 73], "stop", "a", [ROOT_1], "no-valid-signature")
    who("the point of a principal with another application", 69, "release", "lab", [Private(7, "ssh:other")], "no-valid-signature")
    who("the point of a principal as a plain key", 69, "release", "lab", [Private(7)], "no-valid-signature")
    who("two people release", 71, "release", "a", [ALICE, CAROL])
    who("one person of two", [71, 73], "release", "a", [ALICE], "below-threshold")
    who("one person with two keys", 70, "release", "a", [ALICE, ALICE_2], "below-threshold")
    who("one person twice", 70, "release", "a", [ALICE, ALICE], "below-threshold")
    who("two people, one with two keys", 70, "release", "a", [ALICE_2, BOB, ALICE])
    who("somebody of another role fills no threshold", 71, "release", "a", [ALICE, DORA], "below-threshold")
    who("a role on its own scope", 71, "release", "team/x", [DORA])
    who("a role outside its scope", [71, 73], "release", "teams", [DORA], "no-role")
    who("a role above its scope", [71, 73], "release", "*", [DORA], "no-role")
    who("a role without the action", [71, 73], "isolate", "team", [DORA], "no-role")
    who("an automation that would start", [71, 73], "start", "a", [BOT], "no-role")
    who("a touched token", [55, 71], "release", "lab", [sign(ERIN, b"{}", flags=1)], text="{}")
    who("an untouched token", [55, 71], "release", "lab", [sign(ERIN, b"{}", flags=0)], "below-threshold", text="{}")
    who("a touched token without a PIN", [55, 71], "grant", "lab", [sign(ERIN, b"{}", flags=1)], "below-threshold", text="{}")
    who("a token with a PIN", [55, 71], "grant", "lab", [sign(ERIN, b"{}", flags=5)], text="{}")
    who("the touch by one key, the PIN by another", 70, "grant", "lab", [sign(ERIN, b"{}", flags=1), sign(ERIN_2, b"{}", flags=4)], text="{}")
    who("the PIN by one key, the touch by another", 70, "grant", "lab", [sign(ERIN, b"{}", flags=4), sign(ERIN_2, b"{}", flags=1)], text="{}")
    who("the same key without a touch and then with one", 70, "release", "lab", [sign(ERIN, b"{}", flags=0), sign(ERIN, b"{}", flags=1)], "below-threshold", text="{}")
    who("a suspend takes a role on the fleet", [72, 82], "suspend", "*", [DORA], "no-role")
    who("a suspend by who has one", [72, 82], "suspend", "*", [ALICE])


# ---------------------------------------------------------------------------------------------------- 9 the trust chain


def restore_document(number=2, identity="e2" * 32, authority=(1, PINNED), size=9, root_="ab" * 32, lost_from=9, **more):
    return js({"tagout": 1, "deployment": DEPLOYMENT, "restore": {"number": number, "id": identity}, "issued_at": AT,
               "authority": {"version": authority[0], "digest": authority[1]}, "checkpoint": {"size": size, "root": root_},
               "lost_from": lost_from, "reason": "r", **more})


def chain_cases():
    def begin(name, musts, genesis, pinned, want="accept"):
        case("chain", name, musts, {"genesis": shared(genesis), "pinned": pinned}, lambda: {"epoch": [1, Trust(genesis, pinned).epoch[1]]}, want)

    begin("the pinned genesis", 74, GENESIS, PINNED)
    begin("with signatures to spare", [74, 68], {**GENESIS, "signatures": ["x", sign(STRANGER, data_of(GENESIS)), *GENESIS["signatures"]]}, PINNED)
    begin("another than the pinned one", 74, GENESIS, "00" * 32, "not-pinned")
    begin("one root signature", 74, {**GENESIS, "signatures": GENESIS["signatures"][:1]}, PINNED, "root-threshold")
    begin("one root signer twice", 75, {**GENESIS, "signatures": GENESIS["signatures"][:1] * 2}, PINNED, "root-threshold")
    begin("root signatures for another namespace", [75, 48], {**GENESIS, "signatures": [sign(k, data_of(GENESIS), namespace=b"file") for k in (ROOT_1, ROOT_2)]}, PINNED, "root-threshold")
    begin("principals in place of root signers", 75, {**GENESIS, "signatures": [sign(k, data_of(GENESIS)) for k in (ALICE, BOB)]}, PINNED, "root-threshold")
    begin("no signature at all", [74, 58], {**GENESIS, "signatures": []}, PINNED, "unsigned")
    second = successor(GENESIS)
    begin("version 2 as a genesis", 74, second, digest_of(second), "bad-document")

    def add(name, musts, before, last, want="accept"):
        """Learns `before`, each of which must be taken, and then `last`."""
        def judge():
            trust = Trust(GENESIS, PINNED)
            for envelope_ in before:
                trust.learn(envelope_)
            learned = trust.learn(last)
            return {"learned": learned, "version": trust.authority["version"], "epoch": list(trust.epoch), "suspended": len(trust.suspended)}

        case("chain", name, musts, {"before": [shared(e) for e in before], "learn": shared(last)}, judge, want)

    def suspend(*keys, by=(ALICE,), **more):
        return envelope(js(document("suspend", keys=[k.line for k in keys], **more)), *by)

    new_root = {"threshold": 2, "signers": [{"name": "root-3", "key": ROOT_3.line}, {"name": "root-4", "key": ROOT_4.line}]}
    rotated = successor(GENESIS, signers=(ROOT_1, ROOT_3, ROOT_4), root=new_root)
    add("version 2", [76, 77], [], second)
    add("version 2 with other root signers, both thresholds met", 77, [], rotated)
    add("the old root's threshold is missing", 77, [], successor(GENESIS, signers=(ROOT_3, ROOT_4), root=new_root), "root-threshold")
    add("the new root's threshold is missing", 77, [], successor(GENESIS, signers=(ROOT_1, ROOT_2), root=new_root), "root-threshold")
    add("version 3 by the new root", [76, 77], [rotated], successor(rotated, 3, (ROOT_3, ROOT_4)))
    add("version 3 by the first root", [77, 88], [rotated], successor(rotated, 3, (ROOT_1, ROOT_2)), "root-threshold")
    add("one root signer twice, again", 75, [], successor(GENESIS, signers=(ROOT_1, ROOT_1)), "root-threshold")
    third = successor(second, 3)
    add("version 3 without version 2", 76, [], third, "version-gap")
    add("version 3 in its order", 76, [second], third)
    other = successor(GENESIS, reason="another")
    add("another version 2 afterwards", [76, 88], [second], other, "version-gap")
    add("version 3 on another version 2", 76, [second], successor(other, 3), "other-predecessor")
    add("version 2 again", 81, [second, third], second)
    add("the genesis again", 81, [second], GENESIS)
    add("a version 2 of another deployment", 78, [], successor(GENESIS, deployment=OTHER), "wrong-deployment")
    add("another genesis", 78, [], envelope(js(genesis_document(issued_at="2026-11-23T00:00:00Z")), ROOT_1, ROOT_2), "wrong-deployment")
    gone = successor(GENESIS, principals=people(bob=[NEW]))
    add("a principal gets a new key", 79, [], gone)
    add("a former key comes back", [79, 88], [gone], successor(gone, 3, principals=people()), "key-returns")
    add("a former key comes back as a token's", 79, [gone], successor(gone, 3, principals=people(bob=[Private(2, "ssh:")])), "key-returns")
    back = [{"name": "root-1", "key": ROOT_1.line}, {"name": "root-2", "key": BOB.line}, {"name": "root-3", "key": ROOT_3.line}]
    add("a former key comes back as a root signer's", 79, [gone], successor(gone, 3, (ROOT_1, ROOT_3), root={"threshold": 2, "signers": back}), "key-returns")
    add("a suspended key in a new version", [79, 88], [suspend(BOB)], second, "key-returns")
    add("a suspended person with a new key", 79, [suspend(BOB)], gone)
    add("a key that was suspended before anybody had it", 79, [suspend(NEW)], gone, "key-returns")
    retire = [{"key": BOB.line, "principal": "bob", "grants": [ID_A, ID_B]}]
    retiring = successor(GENESIS, principals=people(bob=[NEW]), retired=retire)
    add("a key is retired", 80, [], retiring)
    add("it stays retired, for fewer grants", 80, [retiring], successor(retiring, 3, retired=[{**retire[0], "grants": [ID_B]}]))
    add("it stays retired, for one grant more", 80, [retiring], successor(retiring, 3, retired=[{**retire[0], "grants": [ID_A, ID_B, PINNED]}]), "not-retirable")
    add("retired for somebody else", 80, [], successor(GENESIS, principals=people(bob=[NEW]), retired=[{**retire[0], "principal": "alice"}]), "not-retirable")
    add("a retired key that nobody had", 80, [], successor(GENESIS, retired=[{**retire[0], "key": STRANGER.line}]), "not-retirable")
    add("a retired key that is suspended", 80, [suspend(BOB)], successor(GENESIS, principals=people(bob=[NEW]), retired=retire), "not-retirable")
    add("a retired key comes back", [79, 80], [retiring], successor(retiring, 3, principals=people()), "key-returns")
    add("a suspend", 82, [], suspend(BOB, STRANGER))
    add("a suspend by one who may only stop", 82, [], suspend(BOB, by=(BOT,)), "no-role")
    add("a suspend by one who may on a part", 82, [], suspend(BOB, by=(DORA,)), "no-role")
    add("a suspend of what is suspended, by anybody", 81, [suspend(BOB)], suspend(BOB, by=(STRANGER,)))
    add("a suspend of a root signer's key", 83, [], suspend(BOB, ROOT_1), "root-key")
    add("a suspend of a root signer's point as a token's", 83, [], suspend(Private(11, "ssh:")), "root-key")
    add("a suspend for another deployment", 78, [], suspend(BOB, deployment=OTHER), "wrong-deployment")
    add("a suspend by a suspended key", 85, [suspend(ALICE)], suspend(BOB), "no-valid-signature")
    add("a suspend by the second key of who lost one", 85, [suspend(ALICE)], suspend(BOB, by=(ALICE_2,)))
    add("a restore", [86, 87], [], envelope(restore_document(), ROOT_1, ROOT_2))
    restored = envelope(restore_document(number=5), ROOT_1, ROOT_2)
    add("a restore that skips epochs", 86, [], restored)
    add("the restore again", 81, [restored], restored)
    add("a restore back to an epoch between", [86, 88], [restored], envelope(restore_document(number=4, identity="e4" * 32), ROOT_1, ROOT_2), "epoch-rollback")
    add("a restore into the same number with another id", 86, [restored], envelope(restore_document(number=5, identity="e6" * 32), ROOT_1, ROOT_2), "epoch-rollback")
    add("a restore to the id of epoch 1", 86, [], envelope(restore_document(identity=PINNED), ROOT_1, ROOT_2), "epoch-returns")
    add("a restore to the id of an epoch that was", 86, [restored], envelope(restore_document(number=6), ROOT_1, ROOT_2), "epoch-returns")
    add("a former root signer comes back as a principal", 79, [rotated], successor(rotated, 3, (ROOT_3, ROOT_4), principals=people(bob=[ROOT_1])), "key-returns")
    add("a former root signer comes back", 79, [rotated], successor(rotated, 3, (ROOT_3, ROOT_4, ROOT_1), root={"threshold": 1, "signers": [{"name": "root-1", "key": ROOT_1.line}]}), "key-returns")
    add("a restore that knows an older authority", 87, [second], envelope(restore_document(), ROOT_1, ROOT_2), "restore-authority")
    add("a restore that knows another authority", 87, [], envelope(restore_document(authority=(1, ID_A)), ROOT_1, ROOT_2), "restore-authority")
    add("a restore under version 2", 87, [second], envelope(restore_document(authority=(2, digest_of(second))), ROOT_2, ROOT_3))
    add("a restore by one root signer", 87, [], envelope(restore_document(), ROOT_1), "root-threshold")
    add("a restore by operators", 87, [], envelope(restore_document(), ALICE, BOB), "root-threshold")
    add("a restore of another deployment", 78, [], envelope(restore_document(deployment=OTHER), ROOT_1, ROOT_2), "wrong-deployment")
    add("a stop says nothing of whom to believe", 81, [], envelope(js(document("stop", "a", mode="halt")), ALICE), "nothing-to-learn")

    # Grants under a chain.
    def grant(name, musts, before, doc, signers, want="accept", agent="a/x", epoch=PINNED, size=100):
        signed = doc if "signatures" in doc else envelope(js(doc), *signers)

        def judge():
            trust = Trust(GENESIS, PINNED)
            for envelope_ in before:
                trust.learn(envelope_)
            found = trust.judge_grant(signed)
            place_grant(found, agent, epoch, size)
            return {"expires_at_ms": found["expires_at_ms"]}

        inputs = {"before": [shared(e) for e in before], "grant": shared(signed), "agent": agent, "epoch": epoch, "size": size}
        case("grant", name, musts, inputs, judge, want)

    two = (BOB, CAROL)
    grant("two people consent", [89, 92], [], grant_document(), two)
    grant("one person", 89, [], grant_document(), (BOB,), "below-threshold")
    grant("an automation", 89, [], grant_document(), (BOT,), "no-role")
    grant("a release in a grant's place", 89, [], document("release", "a", locks=[ID_A]), two, "not-a-grant")
    grant("a grant of another deployment", [78, 89], [], grant_document(deployment=OTHER), two, "wrong-deployment")
    grant("no signature", [58, 89], [], grant_document(), (), "unsigned")
    grant("it covers its own scope", 92, [], grant_document("a/x"), two)
    grant("it is for elsewhere", 92, [], grant_document("b"), two, "elsewhere")
    grant("it is for a part", 92, [], grant_document("a/x/y"), two, "elsewhere")
    grant("it is of another epoch", 92, [], grant_document(epoch=ID_A), two, "other-epoch")
    grant("it saw as much as there is", 92, [], grant_document(size=100), two)
    grant("it saw more than there is", 92, [], grant_document(size=101), two, "seen-ahead")
    grant("it saw an authority that is not there", 91, [], grant_document(authority=2), two, "authority-ahead")
    grant("a new version that changes nothing for it", 89, [second], grant_document(), two)
    grant("it saw the new version", 89, [second], grant_document(authority=2), two)
    without_bob = successor(GENESIS, principals=people(bob=[NEW]))
    grant("a signer's key is gone, and it saw the version before", 89, [without_bob], grant_document(), two, "void-before")
    grant("a signer's key is gone, and it saw the version after", 89, [without_bob], grant_document(authority=2), two, "below-threshold")
    grant("the new key counts where it is in every version seen", 89, [without_bob], grant_document(authority=2), (NEW, CAROL))
    grant("the new key does not count under the version before", 89, [without_bob], grant_document(), (NEW, CAROL), "below-threshold")
    grant("old and new key together carry it over", 89, [without_bob], grant_document(), (BOB, NEW, CAROL))
    three = [r if r["name"] != "consent" else {**r, "threshold": 3} for r in GENESIS_DOC["roles"]]
    higher = successor(GENESIS, roles=three)
    again = successor(higher, 3, roles=GENESIS_DOC["roles"])
    grant("a version in between took three: void for ever", [88, 89], [higher, again], grant_document(), two, "void-before")
    grant("signed by three it outlives that version", 89, [higher, again], grant_document(), (ALICE, BOB, CAROL))
    old = envelope(js(grant_document()), *two)
    listing = successor(GENESIS, principals=people(bob=[NEW]), retired=[{"key": BOB.line, "principal": "bob", "grants": [digest_of(old)]}])
    grant("a retired key counts on what is listed", 90, [listing], old, ())
    grant("a retired key counts on nothing else", 90, [listing], grant_document(), two, "void-before")
    unlisting = successor(listing, 3)
    grant("the next version no longer lists it", 90, [listing, unlisting], old, (), "void-before")
    both = envelope(js(grant_document()), BOB, NEW)
    listing_both = successor(GENESIS, principals=people(bob=[NEW]), retired=[{"key": BOB.line, "principal": "bob", "grants": [digest_of(both)]}])
    grant("old and new key of one person count once", [70, 90], [listing_both], both, (), "below-threshold")
    grant("a suspended signer", 85, [suspend(BOB)], grant_document(), two, "below-threshold")
    grant("enough others beside a suspended signer", 85, [suspend(BOB)], grant_document(), (BOB, CAROL, ALICE))
    grant("a suspended retired key", 85, [listing, suspend(BOB)], old, (), "below-threshold")


# ---------------------------------------------------------------------------------------------------- 10 the rule


def rule_cases():
    drain = {"drain": {"drain_ms": 5}}
    throttle = {"throttle": {"calls_per_minute": 0}}

    def lock(kind, released=False, deadline=None):
        return {"kind": kind, "released": released, "drain_deadline_ms": deadline}

    def add(name, musts, expiries, locks, now, want):
        def judge():
            return {"verdict": verdict(expiries, locks, now), "cuts": [cuts(k, now) for k in locks]}

        assert judge()["verdict"] == want, name
        case("rule", name, musts, {"grant_expiries_ms": expiries, "locks": locks, "now_ms": now}, judge)

    add("no consent", 93, [], [], 0, DENIED)
    add("consent until the instant", 93, [10], [], 9, ENABLED)
    add("consent at its end", 93, [10], [], 10, DENIED)
    add("the longest consent counts", 93, [10, 20], [], 15, ENABLED)
    for released in (False, True):
        word = "released" if released else "active"
        add(f"a halt, {word}", [94, 100], [99], [lock("halt", released)], 9, DENIED)
        add(f"a drain before its deadline, {word}", [95, 100], [99], [lock(drain, released, 10)], 9, ESSENTIAL_ONLY)
        add(f"a drain at its deadline, {word}", [95, 100], [99], [lock(drain, released, 10)], 10, DENIED)
        for kind, active in (("pause", DENIED), ("isolate", DENIED), ("restrict", ESSENTIAL_ONLY)):
            add(f"{kind}, {word}", [96, 100], [99], [lock(kind, released)], 9, ENABLED if released else active)
        add(f"a throttle of nothing, {word}", [97, 100], [99], [lock(throttle, released)], 9, ENABLED)
    add("a drain without a deadline", [95, 100], [99], [lock(drain)], 0, DENIED)
    add("the strongest of several", 98, [99], [lock("restrict"), lock(throttle), lock(drain, False, 50)], 9, ESSENTIAL_ONLY)
    add("in another order, and twice", 98, [99], [lock("restrict"), lock("halt"), lock("restrict"), lock("halt")], 9, DENIED)
    add("a lock where there is no consent", 98, [], [lock("restrict")], 9, DENIED)

    def deadline(name, kind, time_ms):
        case("rule", name, 99, {"kind": kind, "entry_time_ms": time_ms}, lambda: {"drain_deadline_ms": fact(kind, False, time_ms)["drain_deadline_ms"]})

    deadline("a drain's deadline", {"drain": {"drain_ms": 60_000}}, T0)
    deadline("a drain's deadline beyond all numbers", {"drain": {"drain_ms": 60_000}}, U64_MAX)
    deadline("a halt has no deadline", "halt", T0)

    def of(name, musts, grants, locks):
        grants = [{"essential": e, "limits": m} for e, m in grants]
        case("rule", name, musts, {"grants": grants, "locks": locks}, lambda: terms(grants, locks))

    calls, tokens = "calls_per_minute", "tokens_per_minute"
    of("no grant, no terms", 101, [], [])
    of("the union of the classes", 101, [(["b", "a"], {}), (["c", "a"], {})], [])
    of("one grant's limits", 102, [([], {calls: 10})], [])
    of("the highest limit", 102, [([], {calls: 10, tokens: 9}), ([], {calls: 60, tokens: 5})], [])
    of("no limit where one grant has none", 102, [([], {calls: 10, tokens: 9}), ([], {calls: 60})], [])
    of("the lowest throttle", 102, [([], {calls: 10})], [lock({"throttle": {calls: 7}}), lock({"throttle": {calls: 20, tokens: 3}}), lock("restrict")])
    of("a released throttle limits nothing", 102, [([], {calls: 10})], [lock({"throttle": {calls: 7}}, True)])


# ---------------------------------------------------------------------------------------------------- 12 to 14 the log


def entry_cases():
    zero = "00" * 32
    signed = envelope("{}", ALICE, ERIN)
    plain = {"document": "{}", "signatures": []}

    def encode(name, musts, kind, index, time_ms, prev, envelope_, want="accept", inputs=None):
        fields = {"kind": kind, "index": index, "time_ms": time_ms, "prev": prev, **(inputs or envelope_)}
        case("entry", name, musts, {"entry": fields}, lambda: {"sha256": hexdigest(encode_entry(kind, index, time_ms, prev, envelope_)), **(
            {} if inputs else {"hex": encode_entry(kind, index, time_ms, prev, envelope_).hex()})}, want)

    def decode(name, musts, data, want="accept"):
        case("entry", name, musts, {"hex": data.hex()}, lambda: decode_entry(data), want)

    for kind in KINDS:
        encode(f"a {kind} entry", 138, kind, 7, T0, ID_A, plain)
    encode("two signatures, verbatim", [57, 138], "command", 0, T0, zero, signed)
    encode("the largest numbers", 138, "outcome", 2**64 - 1, 2**64 - 1, "ff" * 32, {"document": "é", "signatures": ["s", ""]})
    room = 65535 - len(encode_entry("outcome", 0, 0, zero, {"document": "", "signatures": []}))
    for size, want in ((room, "accept"), (room + 1, "too-large")):
        encode(f"a document of {size} bytes", 140, "outcome", 0, 0, zero, {"document": " " * size, "signatures": []}, want,
               {"document": {"parts": [[" ", size]]}, "signatures": []})
    encode("seventeen signatures", 139, "command", 0, 0, zero, {"document": "{}", "signatures": ["s"] * 17}, "malformed")
    good = encode_entry("command", 3, T0, ID_A, {"document": "{}", "signatures": ["s", "t"]})
    decode("an entry", 139, good)
    decode("format 2", 139, b"\x02" + good[1:], "format")
    decode("format 0", 139, b"\x00" + good[1:], "format")
    for kind in (0, 8, 255):
        decode(f"kind {kind}", 139, good[:1] + bytes([kind]) + good[2:], "kind")
    decode("a byte left over", 139, good + b"\x00", "malformed")
    for length in (0, 1, 17, 49, 53, 55, 56, 57, len(good) - 1):
        decode(f"cut to {length} bytes", 139, good[:length], "malformed")
    decode("a document longer than the entry", 139, good[:50] + b"\xff\xff\xff\xff" + good[54:], "malformed")
    decode("a document that is not UTF-8", 139, good.replace(b"{}", b"\xff}"), "malformed")
    decode("a signature that is not UTF-8", 139, good.replace(b"s", b"\xff"), "malformed")
    decode("a count of seventeen signatures", 139, good[:56] + bytes([17]) + b"\x00\x00" * 17, "malformed")

    def chain(name, entries, want="accept"):
        """M141: the entries' places."""
        def judge():
            prev = "00" * 32
            for at, data in enumerate(entries):
                found = decode_entry(data)
                if found["prev"] != prev or found["index"] != at:
                    raise Refused(f"broken-at-{at}")
                prev = hexdigest(data)
            return {"prev": prev, "root": root([leaf_hash(e) for e in entries]).hex()}

        case("entry", name, [138, 141], {"chain": [e.hex() for e in entries]}, judge, want)

    entries, prev = [], "00" * 32
    for at in range(4):
        entries.append(encode_entry("outcome", at, T0 + at, prev, {"document": js({"n": at}), "signatures": []}))
        prev = hexdigest(entries[-1])
    chain("a chain", entries)
    chain("an entry is missing", entries[:1] + entries[2:], "broken-at-1")
    chain("two entries change places", [entries[0], entries[2], entries[1], entries[3]], "broken-at-1")
    changed = encode_entry("outcome", 1, T0 + 1, hexdigest(entries[0]), {"document": js({"n": 9}), "signatures": []})
    chain("an entry is changed", [entries[0], changed, *entries[2:]], "broken-at-2")
    chain("an entry stands twice", entries[:2] + entries[1:], "broken-at-2")


def tree_cases():
    data = [bytes.fromhex(h) for h in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")]
    data += [u16(n) for n in range(25)]
    for size in (0, 1, 2, 3, 4, 5, 7, 8, 9, 33):
        case("tree", f"the root of {size} entries", 142, {"entries": [d.hex() for d in data[:size]]}, lambda: root([leaf_hash(d) for d in data[:size]]).hex())

    def proof(name, leaf, index, size, path, root_, want="accept"):
        def judge():
            if not verify_inclusion(leaf, index, size, path, root_):
                raise Refused("not-included")
            return True

        inputs = {"leaf": leaf.hex(), "index": index, "size": size, "path": [p.hex() for p in path], "root": root_.hex()}
        case("tree", name, 143, inputs, judge, want)

    for size, index in ((1, 0), (2, 1), (3, 2), (5, 4), (7, 3), (8, 0), (33, 32), (33, 17)):
        leaves = [leaf_hash(d) for d in data[:size]]
        proof(f"leaf {index} of {size}", leaves[index], index, size, prove(index, leaves), root(leaves))
    leaves = [leaf_hash(d) for d in data[:7]]
    path, top = prove(3, leaves), root(leaves)
    proof("another leaf", leaves[2], 3, 7, path, top, "not-included")
    proof("another index", leaves[3], 2, 7, path, top, "not-included")
    proof("another size", leaves[3], 3, 9, path, top, "not-included")
    proof("another root", leaves[3], 3, 7, path, leaves[0], "not-included")
    proof("a hash too few", leaves[3], 3, 7, path[:-1], top, "not-included")
    proof("a hash too many", leaves[3], 3, 7, path + [top], top, "not-included")
    proof("a hash too many, and it hashes to the root", leaves[3], 3, 7, path + [top], node_hash(top, top), "not-included")
    proof("a tree of one that says it has two", leaves[0], 0, 1, [leaves[1]], node_hash(leaves[1], leaves[0]), "not-included")
    proof("an index outside the tree", leaves[0], 1, 1, [], leaves[0], "not-included")
    proof("a tree of nothing", leaves[0], 0, 0, [], leaves[0], "not-included")
    proof("an inner node as a leaf", node_hash(leaves[0], leaves[1]), 0, 4, prove(0, leaves[:4])[1:], root(leaves[:4]), "not-included")

    def continues(name, first, second, path, first_root, second_root, want="accept"):
        def judge():
            if not verify_consistency(first, second, path, first_root, second_root):
                raise Refused("not-continued")
            return True

        inputs = {"old_size": first, "size": second, "path": [p.hex() for p in path], "old_root": first_root.hex(), "root": second_root.hex()}
        case("tree", name, 175, inputs, judge, want)

    every = [leaf_hash(d) for d in data[:13]]
    for first, second in ((0, 0), (0, 5), (1, 1), (1, 2), (2, 3), (3, 7), (4, 7), (6, 8), (8, 13), (11, 13), (13, 13)):
        old, new = root(every[:first]), root(every[:second])
        continues(f"{second} entries after {first}", first, second, prove_consistency(first, every[:second]), old, new)
    path, old, new = prove_consistency(6, every[:11]), root(every[:6]), root(every[:11])
    continues("after another old tree", 6, 11, path, root(every[:5]), new, "not-continued")
    continues("into another new tree", 6, 11, path, old, root(every[:12]), "not-continued")
    continues("another old size", 5, 11, path, old, new, "not-continued")
    continues("back to fewer entries", 11, 6, path, new, old, "not-continued")
    continues("a consistency proof with a hash too few", 6, 11, path[:-1], old, new, "not-continued")
    continues("a consistency proof with a hash too many", 6, 11, path + [new], old, new, "not-continued")
    continues("no proof at all", 6, 11, [], old, new, "not-continued")
    continues("two logs of one size", 6, 6, [], old, root(every[1:7]), "not-continued")

    for path in ("0/000", "0/x001/x234/067", "1/000.p/1", "63/999.p/255", "entries/x001/000", "entries/273.p/112"):
        tile = parse_tile_path(path)
        assert tile_path(tile["level"], tile["n"], tile["width"]) == path
        case("tree", f"the tile {path}", 144, {"tile": path}, lambda: parse_tile_path(path))
    for path in ("", "0", "0/", "0/1", "0/0001", "64/000", "00/000", "0/000.p/0", "0/000.p/256", "0/000.p/01", "0/x000/000", "0/001/000", "0/x001", "x/000",
                 "entries/000.p/", "../000", "0/+01", "data/000", "0/x999/x999/x999/x999/x999/x999/x999/999"):
        case("tree", f"the tile {path!r}", 144, {"tile": path}, lambda: parse_tile_path(path), "bad-tile")
    bundle = b"".join(u16(len(d)) + d for d in data[:4])
    case("tree", "a bundle", 145, {"bundle": bundle.hex()}, lambda: [e.hex() for e in parse_bundle(bundle)])
    case("tree", "a bundle of nothing", 145, {"bundle": ""}, lambda: [])
    for name, torn in (("cut in an entry", bundle[:-1]), ("cut in a length", bundle + b"\x00")):
        case("tree", f"a bundle {name}", 145, {"bundle": torn.hex()}, lambda: parse_bundle(torn), "bad-tile")
    hashes = b"".join(leaves[:3])
    case("tree", "a hash tile", 145, {"hash_tile": hashes.hex()}, lambda: [h.hex() for h in leaves[:3]])

    def short():
        raise Refused("bad-tile")

    case("tree", "a hash tile cut short", 145, {"hash_tile": hashes[:-1].hex()}, short, "bad-tile")


def note_cases():
    def key(name, text, want="accept"):
        case("note", name, 146, {"verifier_key": text}, lambda: {"name": parse_verifier_key(text)[0], "key": parse_verifier_key(text)[1].hex()}, want)

    example = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
    good = verifier_key("demo/node-1", NODE.raw)
    key("the example of the specification of signed notes", example)
    key("a node's key", good)
    key("a name beyond ASCII", verifier_key("nœud/1", NODE.raw))
    key("another key id", good.replace("+", "+0", 1)[:-1], "verifier-key")
    key("the key id of another name", good.replace("node-1", "node-2"), "verifier-key")
    name = good.split("+")[0]
    key("a key id in capitals", verifier_key("demo/node-3", NODE.raw).replace(note_key_id("demo/node-3", NODE.raw).hex(), note_key_id("demo/node-3", NODE.raw).hex().upper()), "verifier-key")
    identity_2 = sha256(name.encode() + b"\n\x02" + NODE.raw)[:4].hex()
    key("another type of key", f"{name}+{identity_2}+{b64(bytes([2]) + NODE.raw)}", "verifier-key")
    key("no name", verifier_key("", NODE.raw), "verifier-key")
    key("a name with a space", verifier_key("a b", NODE.raw), "verifier-key")
    key("a name with a no-break space", verifier_key("a\u00a0b", NODE.raw), "verifier-key")
    key("a key of 31 bytes", verifier_key("n", NODE.raw[:31]), "verifier-key")
    for what, raw in SMALL_ORDER.items():
        key(f"{what} as a node's key", verifier_key("n", raw), "verifier-key")
    key("two parts", "demo+00000000", "verifier-key")

    def note(name, musts, text, want="accept", signer="demo/node-1", raw=NODE.raw):
        case("note", name, musts, {"note": text, "key": verifier_key(signer, raw)}, lambda: open_note(text, signer, raw), want)

    text = "one\ntwo\n"
    line, other = signature_line("demo/node-1", NODE, text), signature_line("demo/node-2", NODE_2, text)
    whole = f"{text}\n{line}"
    note("a note", [147, 148], whole)
    note("a stranger's line before ours", 148, f"{text}\n{other}{line}")
    note("a stranger's line after ours", 148, f"{text}\n{line}{other}")
    note("sixteen lines", 147, f"{text}\n{other * 15}{line}")
    note("seventeen lines", 147, f"{text}\n{other * 16}{line}", "malformed")
    note("no line of ours", 148, f"{text}\n{other}", "not-signed")
    note("our name with another key", 148, sign_note("demo/node-1", NODE_2, text), "not-signed")
    note("another text", 148, whole.replace("two", "tvo"), "bad-signature")
    bad = f"\u2014 demo/node-1 {b64(note_key_id('demo/node-1', NODE.raw) + bytes(64))}\n"
    note("our first line decides", 148, f"{text}\n{bad}{line}", "bad-signature")
    note("a signature of 63 bytes", 148, f"{text}\n\u2014 demo/node-1 {b64(note_key_id('demo/node-1', NODE.raw) + bytes(63))}\n", "bad-signature")
    inner = "one\n\ntwo\n"
    note("an empty line in the text", 147, sign_note("demo/node-1", NODE, inner))
    note("no empty line", 147, text + line, "malformed")
    note("no signature line", 147, text + "\n", "malformed")
    note("no newline at the end", 147, whole[:-1], "malformed")
    note("a carriage return", 147, sign_note("demo/node-1", NODE, "one\r\n"), "malformed")
    note("a hyphen in place of the dash", 147, whole.replace("\u2014", "-"), "malformed")
    note("two spaces before the base64", 147, whole.replace("node-1 ", "node-1  "), "malformed")
    note("a line that is no base64", 147, f"{text}\n\u2014 demo/node-2 !!!!\n{line}", "malformed")
    note("a name with a plus", 147, f"{text}\n\u2014 a+b {b64(bytes(68))}\n{line}", "malformed")
    note("nothing", 147, "", "malformed")


def checkpoint_cases():
    origin, entries = DEPLOYMENT, [u32(n) for n in range(11)]
    leaves = [leaf_hash(e) for e in entries]
    signer, raw = "demo/node-1", NODE.raw

    def signed(text):
        return sign_note(signer, NODE, text)

    def add(name, text, want="accept", note=None, expected=origin):
        note = note or signed(text)
        inputs = {"note": note, "key": verifier_key(signer, raw), "origin": expected}
        case("checkpoint", name, 149, inputs, lambda: open_checkpoint(note, signer, raw, expected), want)

    good = checkpoint_text(origin, 11, root(leaves))
    add("a checkpoint", good)
    add("an empty log", checkpoint_text(origin, 0, root([])))
    add("an extension line", good + "extension\n")
    add("another log", good, "origin", expected=OTHER)
    for name, size in (("a leading zero", "011"), ("a sign", "+11"), ("a minus", "-1"), ("no number", "x"), ("a size over 64 bits", "18446744073709551616"), ("a space after the size", "11 ")):
        add(name, good.replace("\n11\n", f"\n{size}\n"), "malformed")
    add("a root of 31 bytes", f"{origin}\n11\n{b64(bytes(31))}\n", "malformed")
    add("a root in hex", f"{origin}\n11\n{root(leaves).hex()}\n", "malformed")
    add("no root", f"{origin}\n11\n", "malformed")
    add("by nobody we know", good, "not-signed", note=sign_note("demo/node-2", NODE_2, good))
    add("changed after signing", good, "bad-signature", note=signed(good).replace("\n11\n", "\n12\n"))

    def proof(name, text, entry, want="accept"):
        inputs = {"proof": text, "entry": entry.hex(), "key": verifier_key(signer, raw), "origin": origin}
        case("checkpoint", name, 150, inputs, lambda: verify_proof(text, entry, signer, raw, origin), want)

    def text_of(index, path, checkpoint=signed(good), extra=""):
        return "".join(["c2sp.org/tlog-proof@v1\n", extra, f"index {index}\n", *(b64(p) + "\n" for p in path), "\n", checkpoint])

    path = prove(6, leaves)
    proof("a proof", text_of(6, path), entries[6])
    proof("a proof with extra data", text_of(6, path, extra="extra AAAA\n"), entries[6])
    proof("a proof in a log of one", text_of(0, [], signed(checkpoint_text(origin, 1, leaves[0]))), entries[0])
    proof("a proof of another entry", text_of(6, path), entries[5], "not-included")
    proof("a proof of another index", text_of(7, path), entries[6], "not-included")
    proof("a proof with another header", text_of(6, path).replace("@v1", "@v2"), entries[6], "malformed")
    proof("an index with a leading zero", text_of("06", path), entries[6], "malformed")
    proof("64 hashes", text_of(6, [path[0]] * 64), entries[6], "malformed")
    proof("no empty line", text_of(6, path).split("\n\n")[0], entries[6], "malformed")
    proof("63 hashes are read", text_of(6, [path[0]] * 63), entries[6], "not-included")
    proof("a proof under an unknown node", text_of(6, path, sign_note("demo/node-2", NODE_2, good)), entries[6], "not-signed")

    def longer(name, text, first, old_root, want="accept"):
        inputs = {"consistency_proof": text, "old_size": first, "old_root": old_root.hex(), "key": verifier_key(signer, raw), "origin": origin}
        case("checkpoint", name, 176, inputs, lambda: verify_consistency_proof(text, first, old_root, signer, raw, origin), want)

    def consistency_text(first, path, checkpoint=signed(good)):
        return "".join([f"old {first}\n", *(b64(p) + "\n" for p in path), "\n", checkpoint])

    old_root, steps = root(leaves[:6]), prove_consistency(6, leaves)
    longer("a consistency proof", consistency_text(6, steps), 6, old_root)
    longer("a consistency proof of the same size", consistency_text(11, []), 11, root(leaves))
    longer("a consistency proof for another old size", consistency_text(6, steps), 5, root(leaves[:5]), "other-size")
    longer("a consistency proof for another old root", consistency_text(6, steps), 6, root(leaves[1:7]), "not-continued")
    longer("an old size with a leading zero", consistency_text("06", steps), 6, old_root, "malformed")
    longer("a consistency proof without its first line", consistency_text(6, steps).split("\n", 1)[1], 6, old_root, "malformed")
    longer("64 hashes of consistency", consistency_text(6, [old_root] * 64), 6, old_root, "malformed")
    longer("a consistency proof under an unknown node", consistency_text(6, steps, sign_note("demo/node-2", NODE_2, good)), 6, old_root, "not-signed")


# ---------------------------------------------------------------------------------------------------- 15 views and leases


def view_cases():
    tag = {"reason": "r", "by": ["alice", "bot"], "case": None}
    base = {"id": ID_A, "scope": "a", "index": 5, "time_ms": T0, "released": False, "tag": tag}
    grant = envelope(js(grant_document()), BOB, CAROL)

    def add(name, view):
        case("view", name, 151, {"view": view}, lambda: view_digest(view))

    add("nothing known", {"agent": "a/x", "locks": [], "grants": []})
    add("another agent", {"agent": "a/y", "locks": [], "grants": []})
    add("one grant", {"agent": "a/x", "locks": [], "grants": [grant]})
    add("a grant with one signature less", {"agent": "a/x", "locks": [], "grants": [{**grant, "signatures": grant["signatures"][:1]}]})
    kinds = ["halt", {"drain": {"drain_ms": 60_000}}, "pause", "isolate", "restrict", {"throttle": {"calls_per_minute": 5}},
             {"throttle": {"tokens_per_minute": 0}}, {"throttle": {"calls_per_minute": 5, "tokens_per_minute": 7}}]
    for kind in kinds:
        add(f"a lock of kind {js(kind)}", {"agent": "a/x", "locks": [{**base, "kind": kind}], "grants": []})
    add("a released lock with a case and no names", {"agent": "a/x", "locks": [{**base, "kind": "halt", "released": True, "tag": {"reason": "é", "by": [], "case": "INC"}}], "grants": []})
    add("every kind at once, and two grants", {"agent": "a/x", "locks": [{**base, "kind": k, "index": n} for n, k in enumerate(kinds)], "grants": [grant, grant]})

    stop = envelope(js(document("stop", "a", mode="halt")), ALICE)
    identity = digest_of(stop)
    release = {"envelope": envelope(js(document("release", "a", locks=[identity])), ALICE, BOB)}
    listed = {"envelope": release["envelope"], "listed": {"index": 3, "path": [ID_A, ID_B]}}
    views = [("a/x", "11" * 32), ("b", "22" * 32)]
    answers = {
        "held": {"answer": "held", "why": "it holds until then"},
        "send_document": {"answer": "send_document"},
        "cleared by its release": {"answer": "cleared", "placed": stop, "release": release, "start": None},
        "cleared by release and start": {"answer": "cleared", "placed": stop, "release": release, "start": release},
        "cleared by bulk documents": {"answer": "cleared", "placed": stop, "release": listed, "start": listed},
    }

    def leaf(name, nonce, views, answers):
        inputs = {"nonce": nonce, "views": views, "answers": answers}
        case("view", f"a leaf: {name}", 155, inputs, lambda: lease_leaf(nonce, views, answers).hex())

    leaf("one agent", ID_A, views[:1], [])
    leaf("another nonce", ID_B, views[:1], [])
    leaf("two agents", ID_A, views, [])
    leaf("two agents the other way round", ID_A, views[::-1], [])
    for name, answer in answers.items():
        leaf(name, ID_A, views[:1], [[identity, answer]])
    leaf("all answers", ID_A, views, [[identity, a] for a in answers.values()])


def lease_cases():
    signer, raw = "demo/node-1", NODE.raw
    leaves = [lease_leaf(hexdigest(u32(n)), [("a/x", ID_A)], []) for n in range(5)]
    good = {"deployment": DEPLOYMENT, "epoch_number": 1, "epoch": PINNED, "authority_version": 1, "authority": PINNED, "log_size": 12,
            "log_root": ID_A, "time_ms": T0, "ttl_ms": 10_000, "lapse_grace_ms": 20_000, "rule_version": 1, "batch_size": 5,
            "batch_root": root(leaves).hex()}

    def add(name, musts, text, want="accept", note=None):
        note = note or sign_note(signer, NODE, text)
        case("lease", name, musts, {"note": note, "key": verifier_key(signer, raw)}, lambda: open_lease(note, signer, raw), want)

    text = lease_text(good)
    add("a lease", 153, text)
    largest = {"epoch_number": U64_MAX, "log_size": U64_MAX, "time_ms": 253_402_300_799_999, "ttl_ms": 60_000, "lapse_grace_ms": 120_000, "rule_version": U64_MAX}
    add("the largest numbers", [153, 154], lease_text({**good, **largest}))
    add("a ttl and grace of nothing", 154, lease_text({**good, "ttl_ms": 0, "lapse_grace_ms": 0}))
    add("a ttl over 60 s", 154, lease_text({**good, "ttl_ms": 60_001}), "malformed")
    add("a grace over 120 s", 154, lease_text({**good, "lapse_grace_ms": 120_001}), "malformed")
    add("a time after the year 9999", 154, lease_text({**good, "time_ms": 253_402_300_800_000}), "malformed")
    lines = text.splitlines()
    for at, line in enumerate(lines):
        without = "".join(x + "\n" for n, x in enumerate(lines) if n != at)
        add(f"without the line {line.split(' ')[0]}", 153, without, "malformed")
    add("a line more", 153, text + "more 1\n", "malformed")
    add("two lines the other way round", 153, "".join(x + "\n" for x in [*lines[:5], lines[6], lines[5], *lines[7:]]), "malformed")
    for old, new in (("ttl_ms 10000", "ttl_ms 010000"), ("ttl_ms 10000", "ttl_ms 10000 "), ("ttl_ms 10000", "ttl_ms  10000"), ("rule 1", "rule 1 2"), ("epoch 1 ", "epoch +1 "),
                     ("/v1", "/v2"), ("log 12", "log 18446744073709551616"), (f"epoch 1 {PINNED}", f"epoch 1 {PINNED.upper()}"),
                     (b64(bytes.fromhex(ID_A)), ID_A), (f"deployment {DEPLOYMENT}", "deployment demo")):
        add(f"{new[:20]} for {old[:20]} ({len(new)})", 153, text.replace(old, new), "malformed")
    add("by another node", [148, 153], text, "not-signed", note=sign_note("demo/node-2", NODE_2, text))
    add("a longer ttl after signing", [148, 153], text, "bad-signature", note=sign_note(signer, NODE, text).replace("ttl_ms 10000", "ttl_ms 60000"))
    add("a checkpoint is no lease", 153, checkpoint_text(DEPLOYMENT, 12, bytes(32)), "malformed")

    def binds(name, lease, leaf, index, path, want="accept"):
        def judge():
            if not verify_inclusion(leaf, index, lease["batch_size"], path, bytes.fromhex(lease["batch_root"])):
                raise Refused("not-bound")
            return True

        note = sign_note(signer, NODE, lease_text(lease))
        inputs = {"note": note, "key": verifier_key(signer, raw), "leaf": leaf.hex(), "leaf_index": index, "path": [p.hex() for p in path]}
        case("lease", name, 156, inputs, judge, want)

    path = prove(2, leaves)
    binds("it binds its leaf", good, leaves[2], 2, path)
    alone = {**good, "batch_size": 1, "batch_root": leaves[0].hex()}
    binds("a batch of one", alone, leaves[0], 0, [])
    binds("another leaf", good, leaves[3], 2, path, "not-bound")
    binds("another place", good, leaves[2], 3, path, "not-bound")
    binds("a leaf for another nonce", good, lease_leaf(ID_B, [("a/x", ID_A)], []), 2, path, "not-bound")
    binds("a leaf for another state", good, lease_leaf(hexdigest(u32(2)), [("a/x", ID_B)], []), 2, path, "not-bound")
    binds("no path", good, leaves[2], 2, [], "not-bound")


def clearance_cases():
    second = successor(GENESIS, principals=people(bob=[NEW]))

    def docs(mode="halt", scope="a", **more):
        placed = envelope(js(document("stop", scope, mode=mode, **more)), ALICE)
        return placed, digest_of(placed)

    def loosen(action, ids, scope="a", by=(ALICE, BOB), **more):
        return {"envelope": envelope(js(document(action, scope, locks=ids, **more)), *by)}

    def add(name, musts, placed, release, start, want="accept", agent="a/x", identity=None, before=()):
        identity = identity or digest_of(placed)
        answer = {"placed": placed, "release": release, "start": start}

        def judge():
            trust = Trust(GENESIS, PINNED)
            for envelope_ in before:
                trust.learn(envelope_)
            check_clearance(trust, identity, agent, answer)
            return True

        flat = {k: v and {"envelope": shared(v["envelope"]), **{x: v[x] for x in v if x != "envelope"}} for k, v in (("release", release), ("start", start))}
        inputs = {"before": [shared(e) for e in before], "lock": identity, "agent": agent, "placed": shared(placed), **flat}
        case("clearance", name, musts, inputs, judge, want)

    halt, h = docs()
    rel, sta = loosen("release", [h]), loosen("start", [h])
    add("a halt with its release and start", [167, 168, 170], halt, rel, sta)
    add("what placed it needs no signature", 167, {**halt, "signatures": []}, rel, sta)
    add("a halt without a start", 170, halt, rel, None, "start-missing")
    drain, d = docs("drain", drain_ms=5)
    add("a drain without a start", 170, drain, loosen("release", [d]), None, "start-missing")
    pause, p = docs("pause")
    add("a pause with its release", 168, pause, loosen("release", [p]), None)
    add("another stop in its place", 167, pause, rel, sta, "other-document", identity=h)
    add("a grant as what placed it", 167, envelope(js(grant_document()), BOB, CAROL), rel, sta, "bad-document")
    add("a release of another lock", 168, halt, loosen("release", [ID_A]), sta, "other-lock")
    add("a start of another lock", 170, halt, rel, loosen("start", [ID_A]), "other-lock")
    add("a start in the release's place", 168, halt, sta, sta, "wrong-action")
    add("a release in the start's place", 170, halt, rel, rel, "wrong-action")
    add("a release that does not cover the lock", 168, halt, loosen("release", [h], "a/x"), sta, "other-scope")
    add("a release from above", 168, halt, loosen("release", [h], "*"), sta)
    add("a start of the agent's part alone", 170, halt, rel, loosen("start", [h], "a/x"))
    add("a start of another part", 170, halt, rel, loosen("start", [h], "a/y"), "other-scope")
    add("a release by one person", 168, halt, loosen("release", [h], by=(ALICE,)), sta, "below-threshold")
    add("a start by an automation", 170, halt, rel, loosen("start", [h], by=(BOT,)), "no-role")
    add("a release of another deployment", [78, 168], halt, loosen("release", [h], deployment=OTHER), sta, "wrong-deployment")
    add("a release without a signature", [58, 168], halt, loosen("release", [h], by=()), sta, "unsigned")
    add("a signer's key is gone", 168, halt, rel, sta, "below-threshold", before=[second])
    add("a fresh release and start by the new key", 168, halt, loosen("release", [h], by=(ALICE, NEW)), loosen("start", [h], by=(ALICE, NEW)), before=[second])
    suspended = envelope(js(document("suspend", keys=[BOB.line])), ALICE)
    add("a signer's key is suspended", [85, 168], halt, rel, sta, "below-threshold", before=[suspended])
    trip = {"document": js({"tagout": 1, "deployment": DEPLOYMENT, "trip": "a", "nonce": ID_B, "issued_at": AT, "instance": "i", "reason": "r"}), "signatures": []}
    t = digest_of(trip)
    add("a trip with its release and start", 167, trip, loosen("release", [t]), loosen("start", [t]))
    for action, more in (("isolate", {}), ("restrict", {}), ("throttle", {"limits": {"calls_per_minute": 1}})):
        placed = envelope(js(document(action, "a", **more)), ALICE)
        add(f"a lock of {action} with its release", 168, placed, loosen("release", [digest_of(placed)]), None)
    restored = envelope(restore_document(), ROOT_1, ROOT_2)
    r = digest_of(restored)
    start_all = loosen("start", [r], "*")
    add("a restore's lock", 169, restored, loosen("release", [r], "*", lost_from=9), start_all, before=[restored])
    add("a restore's lock, and nothing said of what is lost", 169, restored, loosen("release", [r], "*"), start_all, "lost-from", before=[restored])
    add("a restore's lock, and something else said", 169, restored, loosen("release", [r], "*", lost_from=8), start_all, "lost-from", before=[restored])
    ids = [hexdigest(u32(n)) for n in range(6)] + [h]
    leaves = [leaf_hash(bytes.fromhex(i)) for i in ids]
    bulk = {"count": 7, "root": root(leaves).hex(), "before": 99}
    listed = {"index": 6, "path": [x.hex() for x in prove(6, leaves)]}

    def many(action, listed):
        return {**loosen(action, bulk), **({"listed": listed} if listed else {})}

    add("bulk documents with their proofs", [123, 168, 170], halt, many("release", listed), many("start", listed))
    add("a bulk release without its proof", 123, halt, many("release", None), sta, "other-lock")
    add("a bulk release with the proof of another place", 123, halt, many("release", {**listed, "index": 5}), sta, "other-lock")
    add("a bulk release with a shorter proof", 123, halt, many("release", {**listed, "path": listed["path"][:-1]}), sta, "other-lock")
    add("a bulk start for a lock that is not in it", 123, pause, loosen("release", [p]), None)
    add("a bulk release of other locks", 123, drain, many("release", listed), loosen("start", [d]), "other-lock")


# ---------------------------------------------------------------------------------------------------- 11 the ledger


class History:
    """One ledger, step by step. Steps that cite a requirement are cases."""

    def __init__(self, name, genesis=True):
        self.ledger, self.now, self.steps = Ledger(PINNED), T0, []
        HISTORIES.append({"name": name, "steps": self.steps})
        if genesis:
            self.send(GENESIS)

    def step(self, name, musts, inputs, expect, want):
        found = expect.get("reject", "accept")
        assert found == want, f"{HISTORIES[-1]['name']}, {name or js(inputs)[:99]}: {found} instead of {want}"
        musts = [f"M{n}" for n in ([musts] if isinstance(musts, int) else musts)]
        self.steps.append({**({"name": name, "musts": musts} if name else {}), **inputs, "expect": expect})

    def send(self, envelope_, name=None, musts=(), want="accept", kind="command", appends=None):
        answer, entry = self.ledger.apply(kind, self.now, envelope_)
        assert (entry is None) == (want != "accept" or answer["accept"]["repeated"]) or appends, name
        inputs = {"kind": kind, "time_ms": self.now, "envelope": shared(envelope_)}
        self.step(name, musts, inputs, {**answer, **({"entry": hexdigest(entry)} if entry else {})}, want)
        return digest_of(envelope_)

    def again(self, identity, name, musts, want="accept"):
        """Sends once more what had this digest."""
        last = [e for e in ENVELOPES if digest_of(e) == identity][0]
        return self.send(last, name, musts, want)

    def stop(self, scope="a", mode="halt", name=None, musts=(), by=(ALICE,), want="accept", **more):
        more = {"drain_ms": 60_000, **more} if mode == "drain" else more
        return self.send(envelope(js(document("stop", scope, mode=mode, **more)), *by), name, musts, want)

    def tighten(self, action, scope="a", name=None, musts=(), want="accept", by=(ALICE,), **more):
        return self.send(envelope(js(document(action, scope, **more)), *by), name, musts, want)

    def loosen(self, action, ids, scope="a", name=None, musts=(), want="accept", by=(ALICE, BOB), **more):
        return self.send(envelope(js(document(action, scope, locks=ids, **more)), *by), name, musts, want)

    def release(self, ids, *args, **more):
        return self.loosen("release", ids, *args, **more)

    def start(self, ids, *args, **more):
        return self.loosen("start", ids, *args, **more)

    def grant(self, scope="*", name=None, musts=(), want="accept", by=(BOB, CAROL), until=None, **more):
        trust = self.ledger.trust
        more = {"epoch": trust.epoch[1], "size": self.ledger.size, "authority": trust.authority["version"], **more}
        doc = grant_document(scope, self.now + DAY if until is None else until, **more)
        return self.send(envelope(js(doc), *by), name, musts, want)

    def look(self, agent, want, name=None, musts=(), after=0):
        now = self.now + after
        view = self.ledger.view(agent, now)
        found = {"verdict": self.ledger.verdict(agent, now), **self.ledger.terms(agent, now),
                 "locks": [k["id"] for k in view["locks"]], "view": view_digest(view)}
        assert found["verdict"] == want, f"{HISTORIES[-1]['name']}, {name}: {found['verdict']} instead of {want}"
        self.step(name, musts, {"agent": agent, "now_ms": now}, {"accept": found}, "accept")
        return found

    def log(self, name, musts):
        found = {"size": self.ledger.size, "prev": self.ledger.prev, "root": self.ledger.root().hex()}
        self.step(name, musts, {"log": True}, {"accept": found}, "accept")


    def admit(self, token, agent, name, want="accept", after=0):
        now = self.now + after
        found = run(lambda: self.ledger.admit(token, agent, now))
        self.step(name, 182, {"token": token, "agent": agent, "now_ms": now}, found, want)


HISTORIES = []


def bulk_of(ids, before, **more):
    return {"count": len(ids), "root": root([leaf_hash(bytes.fromhex(i)) for i in ids]).hex(), "before": before, **more}


def history_cases():
    h = History("the genesis comes first and once", genesis=False)
    h.stop(name="a stop before the genesis", musts=105, want="not-ready")
    h.send({**GENESIS, "signatures": GENESIS["signatures"][:1]}, "a genesis with one root signature", [74, 103], "root-threshold")
    h.log("nothing has happened", 103)
    h.send(GENESIS, "the genesis", [74, 105])
    h.send({**GENESIS, "signatures": ["x"]}, "the genesis again", [105, 106])
    h.stop(name="a stop after the genesis", musts=105)
    h.log("two entries", [104, 138, 142])

    h = History("a halt ends by release and then start")
    h.look("a/x", DENIED, "no consent yet", 93)
    h.grant("*", essential=["handover"])
    h.look("a/x", ENABLED, "consent for the fleet", 93)
    lock = h.stop()
    h.look("a/x", DENIED, "stopped", 94)
    h.look("b", ENABLED, "a neighbour goes on", [20, 98])
    h.start([lock], name="a start before the release", musts=113, want="not-released")
    h.release([lock], name="the release", musts=112)
    h.look("a/x", DENIED, "released, not started", [94, 112])
    h.grant("a")
    h.look("a/x", DENIED, "consent starts nothing", [94, 112])
    h.start([lock], name="the start", musts=114)
    h.look("a/x", ENABLED, "it runs", 114)
    h.look("a/x", DENIED, "until consent ends", 93, after=DAY)
    h.log("all of it is in the log", [103, 104, 138, 142])

    h = History("a command takes effect once")
    h.grant()
    lock = h.stop()
    h.now += 5000
    h.again(lock, "the same bytes again", 106)
    text = [e for e in ENVELOPES if digest_of(e) == lock][0]["document"]
    h.send(envelope(text, BOB, ALICE), "with other signatures", [59, 106])
    h.send(envelope(text, STRANGER), "by a stranger", 108, "no-valid-signature")
    release = h.release([lock])
    h.again(lock, "the stop once released", 107, "used")
    start = h.start([lock])
    h.again(lock, "the stop once started", 107, "used")
    second = h.stop()
    h.again(release, "the old release against a new stop", 106)
    h.again(start, "the old start against a new stop", 106)
    h.look("a", DENIED, "old documents do nothing", [106, 112])
    h.tighten("revoke", grants=[second], name="a revoke that names a stop by mistake", musts=126)
    h.again(second, "that stop again", 106)
    h.log("repeated ones are not in the log", [103, 104])

    h = History("releases and starts stay within their scope")
    h.grant()
    on_a, on_b, on_ax = h.stop("a"), h.stop("b"), h.stop("a/x")
    h.release([on_a], "a/x", name="a release of a part", musts=109, want="lock-outside-scope")
    h.release([on_ax, on_b], "a", name="one of two locks outside", musts=[103, 109], want="lock-outside-scope")
    h.release([on_a], "a", name="a release by who may elsewhere", musts=71, want="no-role", by=(DORA, STRANGER))
    h.release([on_a], "team", name="a release that is signed for elsewhere", musts=109, want="lock-outside-scope", by=(DORA,))
    h.release([on_a, on_b], "*", name="a release from above", musts=109)
    h.release([on_a], name="a release again", musts=110, want="already-released")
    h.start([on_a, on_b], "a", name="a start of one that lies elsewhere", musts=[103, 114], want="start-elsewhere")
    h.look("a/y", DENIED, "a refused start has started nothing", 103)
    h.start([on_a], "a")
    h.look("a/y", ENABLED, "started", 114)
    h.look("a/x/1", DENIED, "the lock below still holds", 98)
    h.release([on_a], name="a release of what ended", musts=111, want="no-such-lock")
    h.start([on_a], name="a start of what ended", musts=111, want="no-such-lock")
    grant = h.grant("a")
    h.release([grant], name="a release of a grant", musts=111, want="no-such-lock")

    h = History("what ends by its release")
    h.grant()
    for kind in ("pause", "isolate", "restrict", "throttle"):
        lock = h.stop("a", "pause") if kind == "pause" else h.tighten(kind, **({"limits": {"calls_per_minute": 3}} if kind == "throttle" else {}))
        verdicts = {"restrict": ESSENTIAL_ONLY, "throttle": ENABLED}
        h.look("a", verdicts.get(kind, DENIED), f"under {kind}", [97, 102] if kind == "throttle" else 96)
        h.start([lock], name=f"a start of {kind}", musts=113, want="takes-no-start")
        h.release([lock], name=f"the release of {kind}", musts=112)
        h.look("a", ENABLED, f"{kind} is over", [112, 96])
        h.start([lock], name=f"a start of {kind} that is over", musts=111, want="no-such-lock")

    h = History("a drain, and waves")
    h.grant("*", essential=["handover"], limits={"calls_per_minute": 100})
    lock = h.stop("a", "drain")
    h.look("a/x", ESSENTIAL_ONLY, "before the deadline", [95, 99, 101], after=59_999)
    h.look("a/x", DENIED, "at the deadline", [95, 99], after=60_000)
    h.start([lock], "a/x", name="a wave before the release", musts=113, want="not-released")
    h.release([lock])
    h.now += 60_000
    h.start([lock], "b", name="a wave elsewhere", musts=114, want="start-elsewhere")
    h.start([lock], "a/x", name="the first wave", musts=114)
    for agent, verdict_ in (("a", DENIED), ("a/x", ENABLED), ("a/x/1", ENABLED), ("a/x2", DENIED), ("a/y", DENIED)):
        h.look(agent, verdict_, f"{agent} after the first wave", 114)
    h.start([lock], "a/x", name="the first wave again, in other bytes", musts=114)
    fleet = h.stop("*")
    h.look("a/x", DENIED, "a later lock holds the wave again", 116)
    h.release([fleet], "*")
    h.start([fleet], "a/y", name="a wave of the fleet's lock", musts=116)
    h.look("a/y", DENIED, "it is no wave of the older lock", 116)
    h.start([fleet, lock], "*", name="everything", musts=114)
    h.look("a/y", ENABLED, "everything runs", 114)

    h = History("releases and starts that wait")
    h.grant()

    def future(scope="a", mode="halt", **more):
        e = envelope(js(document("stop", scope, mode=mode, **more)), ALICE)
        return e, digest_of(e)

    one, one_id = future()
    h.start([one_id], name="a start of what nobody knows", musts=117, want="not-released")
    h.release([one_id], name="a release of what nobody knows", musts=[117, 121])
    h.start([one_id], name="a start behind it", musts=[117, 121])
    h.send(one, "the stop arrives and is over", 118, "used", appends=True)
    h.look("a", ENABLED, "it stops nothing", 118)
    h.send(one, "and again", 107, "used")
    two, two_id = future()
    h.release([two_id])
    h.start([two_id], "a/x")
    h.send(two, "a stop arrives, released and with a wave", 118)
    h.look("a/x", ENABLED, "the wave runs", 118)
    h.look("a/y", DENIED, "the rest is held", 118)
    h.send(two, "it is released already", 107, "used")
    h.start([two_id])
    three, three_id = future("a")
    h.release([three_id], "a/x")
    h.send(three, "the release that waits is for a part only", [109, 118])
    h.look("a/x", DENIED, "it is held", 118)
    h.release([three_id])
    h.start([three_id])
    four, four_id = future("a")
    h.release([four_id], "b")
    h.start([four_id], "a", name="a start behind a release for elsewhere", musts=117)
    h.release([four_id], "a")
    h.send(four, "the start came before the release that covers it", 119)
    h.look("a", DENIED, "so it is released and not started", 119)
    h.start([four_id])
    h.look("a", ENABLED, "until it is", 119)
    five, five_id = future("a", "pause")
    h.release([five_id])
    h.send(five, "a pause arrives and is over", 118, "used", appends=True)
    six, six_id = future()
    for _ in range(8):
        h.release([six_id])
    h.release([six_id, "ee" * 32], name="a ninth release for one lock", musts=[103, 120], want="too-many-remembered")
    h.start([six_id], name="or a start", musts=120, want="too-many-remembered")
    h.send(six, "they all wait for it", 118)
    h.log("waiting documents are in the log", [104, 118])

    h = History("many locks by one root")
    h.grant()
    ids = [h.stop(f"a/{n}", by=(BOT,) if n % 2 else (ALICE,)) for n in range(5)]
    other = h.stop("b")
    before = h.ledger.size
    later = h.stop("a/9")
    h.release(bulk_of(ids[:4], before), name="one too few", musts=122, want="other-locks")
    h.release(bulk_of(ids[::-1], before), name="in another order", musts=122, want="other-locks")
    h.release({**bulk_of(ids, before), "count": 4}, name="another count", musts=122, want="other-locks")
    h.release(bulk_of(ids, h.ledger.size), name="also what came later", musts=122, want="other-locks")
    h.release(bulk_of([other], before), "a", name="what lies elsewhere", musts=122, want="other-locks")
    h.release(bulk_of(ids[1::2], before, by="bot"), name="those that one principal placed", musts=122)
    h.release(bulk_of(ids, before), name="the first list, no longer true", musts=122, want="other-locks")
    h.release(bulk_of(ids[::2], before), name="the rest", musts=122)
    h.start(bulk_of(ids + [later], before + 99), name="a start with one that is not released", musts=122, want="other-locks")
    h.start(bulk_of(ids[2:3], before), "a/2/x", name="a wave by root", musts=[114, 122])
    h.look("a/2/x", ENABLED, "the wave runs", 114)
    h.start(bulk_of(ids[2:3], before), "a/2/x/1", name="a part of that wave", musts=122, want="other-locks")
    h.start(bulk_of(ids, before), name="all of them", musts=122)
    h.look("a/2", ENABLED, "they run", 122)
    h.look("a/9", DENIED, "the later one is held", 122)

    h = History("grants")
    h.grant("a", epoch=ID_A, name="of another epoch", musts=124, want="wrong-epoch")
    h.grant("a", size=2, name="it saw more than there is", musts=124, want="seen-ahead")
    h.grant("a", size=1, name="it saw what there is", musts=124)
    h.grant("a", until=h.now, name="it ends now", musts=124, want="expired")
    h.grant("a", until=h.now + 1, name="it ends in a moment", musts=124)
    h.grant("a", authority=2, name="it saw an authority to come", musts=91, want="authority-ahead")
    h.grant("a", by=(BOB,), name="by one person", musts=89, want="below-threshold")
    h.now += 1
    for n in range(7):
        last = h.grant("a", essential=[f"c{n}"], limits={"calls_per_minute": n})
    h.grant("a", name="a ninth", musts=125, want="too-many-grants")
    h.grant("a/x", name="one on a scope below", musts=125)
    h.look("a/x", ENABLED, "their terms together", [101, 102, 152])
    h.tighten("revoke", "b", grants=[last], name="a revoke from elsewhere", musts=[103, 126], want="grant-outside-scope")
    h.tighten("revoke", "a/x", grants=[last], name="a revoke for a part", musts=126, want="grant-outside-scope")
    revoke = h.tighten("revoke", "a", grants=[last], name="a revoke", musts=[121, 126])
    h.again(last, "the revoked grant again", 129, "void")
    h.again(revoke, "the revoke again", 106)
    h.grant("a", name="there is room again", musts=[125, 126])
    coming = envelope(js(grant_document("c", h.now + DAY)), BOB, CAROL)
    h.tighten("revoke", "b", grants=[digest_of(coming)], name="a revoke of what is to come, for elsewhere", musts=[121, 127])
    coming_too = envelope(js(grant_document("c", h.now + DAY)), BOB, CAROL)
    h.tighten("revoke", "*", grants=[digest_of(coming_too)], name="a revoke of what is to come", musts=[121, 127])
    h.send(coming, "a grant that was revoked for elsewhere", 127)
    h.send(coming_too, "a grant that was revoked before it came", 127, "void")
    h.look("c", ENABLED, "one of them holds", 127)
    first = coming
    h.now += DAY
    h.look("c", DENIED, "until it ends", 93)
    h.again(digest_of(first), "its bytes again", 106)

    h = History("a suspend and a new authority void grants for ever")
    safe, weak = h.grant("a", by=(ALICE, BOB, CAROL)), h.grant("b", by=(BOB, CAROL))
    held = h.stop("d")
    release = h.release([held], "d")
    gone_lock = h.stop("e")
    h.release([gone_lock], "e")
    h.start([gone_lock], "e")
    gone_pause = h.stop("e", "pause")
    h.release([gone_pause], "e")
    h.release([held], "d", name="a second release", musts=110, want="already-released")
    early = envelope(js(grant_document("c", h.now + DAY)), BOB, CAROL)
    h.send(envelope(js(document("suspend", keys=[ROOT_1.line])), ALICE), "a suspend of a root signer", 83, "root-key")
    h.send(envelope(js(document("suspend", keys=[BOB.line])), DORA), "a suspend by who may on a part", 82, "no-role")
    h.send(envelope(js(document("suspend", keys=[BOB.line])), ALICE), "a suspend", [82, 128])
    h.look("a", ENABLED, "enough signers are left", 128)
    h.look("b", DENIED, "too few signers are left", 128)
    h.again(weak, "the void grant again", 129, "below-threshold")
    h.send(early, "a grant by a suspended key", [85, 129], "below-threshold")
    h.release([held], "d", name="a fresh release after the suspend", musts=110, by=(ALICE, CAROL))
    h.release([gone_lock], "f", name="a fresh release for elsewhere", musts=[109, 111], want="lock-outside-scope", by=(ALICE, CAROL))
    h.release([gone_lock], "e", name="a fresh release of what ended", musts=111, by=(ALICE, CAROL))
    h.release([gone_lock], "e/x", name="a fresh release of a part of what ended", musts=[109, 111], want="no-such-lock", by=(ALICE, CAROL))
    h.start([gone_lock], "e/x", name="a fresh start of a part of what ended", musts=111, want="lock-outside-scope", by=(ALICE, CAROL))
    h.start([gone_lock], "e", name="a fresh start of what ended", musts=111, by=(ALICE, CAROL))
    h.start([gone_lock], "e", name="a start fresher than needed", musts=111, want="no-such-lock", by=(ALICE, CAROL))
    h.start([gone_pause], "e", name="a fresh start of a pause that ended", musts=111, want="no-such-lock", by=(ALICE, CAROL))
    h.again(gone_lock, "the stop that ended stays used", 107, "used")
    h.grant("e", by=(ALICE, CAROL))
    h.look("e", ENABLED, "and the lock does not come back", 111)
    base = {"principals": people(bob=[NEW]), "disables": 0}
    taken = [r if r["name"] != "consent" else {**r, "principals": ["bob", "carol"]} for r in GENESIS_DOC["roles"]]
    h.send(successor(GENESIS, **base, roles=taken), "an authority that disables two, and says none", 130, "disables-more")
    h.send(successor(GENESIS, **{**base, "disables": 1}, roles=taken), "says one", 130, "disables-more")
    h.send(successor(GENESIS, **base, roles=taken, signers=(ROOT_1,)), "by one root signer", 77, "root-threshold")
    second = successor(GENESIS, **{**base, "disables": 2}, roles=taken)
    h.send(second, "says two", [76, 77, 130])
    h.look("a", DENIED, "void by the new version", 128)
    h.again(safe, "its bytes again", 129, "void-before")
    never = envelope(js(grant_document("a", h.now + DAY, size=1)), ALICE, CAROL)
    h.send(never, "a grant that was void before it came", 129, "void-before")
    h.send(second, "the authority again", [81, 106])
    third = successor(second, 3, roles=GENESIS_DOC["roles"])
    h.send(third, "a version that gives all rights back", [76, 130])
    h.again(safe, "void once is void for ever", [88, 129], "void-before")
    h.look("a", DENIED, "no consent comes back", [88, 128])
    h.grant("a", by=(ALICE, NEW), name="a new grant", musts=89)
    h.look("a", ENABLED, "new consent", 89)
    h.send(successor(second, 2), "an older version", 76, "version-gap")
    h.send(successor(second, 4), "a version on another", 76, "other-predecessor")
    h.send(successor(third, 4, principals=people()), "a key that comes back", 79, "key-returns")
    h.log("after three versions", 104)

    h = History("a restore from backup")
    h.grant("*")
    lock = h.stop("a")
    size, top = h.ledger.size, h.ledger.root().hex()

    before = h.grant("c")
    size, top = h.ledger.size, h.ledger.root().hex()

    def restore(number=2, lost=None, by=(ROOT_1, ROOT_2), **more):
        lost = h.ledger.size if lost is None else lost
        return envelope(restore_document(number, lost_from=lost, **{"size": 99, **more}), *by)

    h.send(restore(lost=size - 1), "entries are lost that are here", 131, "restore-elsewhere", kind="restore")
    h.send(restore(lost=size + 1), "entries are kept that are not here", 131, "restore-elsewhere", kind="restore")
    h.send(restore(size=size, root_=ID_A), "a checkpoint of this size with another root", 131, "restore-elsewhere", kind="restore")
    h.send(restore(by=(ROOT_1,)), "by one root signer", 87, "root-threshold", kind="restore")
    h.send(restore(authority=(2, ID_A)), "with another authority", 87, "restore-authority", kind="restore")
    h.send(restore(deployment=OTHER), "of another deployment", 78, "wrong-deployment", kind="restore")
    h.send(restore(by=()), "without a signature", 58, "unsigned", kind="restore")
    h.send(restore(size=size, root_=top), "as a command", 22, "bad-document")
    begun = restore(size=size, root_=top)
    halt = h.send(begun, "a restore", [86, 87, 131, 132], kind="restore")
    h.look("b", DENIED, "the fleet is halted", 132)
    h.send(begun, "the restore again", 106, kind="restore")
    h.grant("b", epoch=PINNED, name="a grant of the old epoch", musts=[124, 132], want="wrong-epoch")
    h.release([halt], "*", name="its release without lost_from", musts=133, want="lost-from")
    h.release([halt], "*", name="its release with another lost_from", musts=133, want="lost-from", lost_from=size + 1)
    h.release([lock], "a", name="the release of another lock with lost_from", musts=133, want="nothing-lost", lost_from=size)
    h.release([halt, lock], "*", name="its release as it must be", musts=133, lost_from=size)
    h.start([halt, lock], "*")
    h.look("b", DENIED, "no grant of the old epoch is left", 132)
    h.again(before, "one of them again", [129, 132], "void")
    h.grant("b")
    h.look("b", ENABLED, "consent in the new epoch", [124, 132])
    h.send(restore(2), "epoch 2 once more", 86, "epoch-rollback", kind="restore")
    third = restore(3, h.ledger.size + 1, identity="e3" * 32)
    h.release([digest_of(third)], "*", name="a release of the next restore, before it, without lost_from", musts=[117, 133])
    h.send(third, "the next restore", [118, 133], kind="restore")
    h.send(third, "it is not released", [106, 133], kind="restore")
    h.log("the log goes on", [104, 138])

    h = History("trips")
    h.grant("*")

    def trip(scope="a/x", **more):
        COUNT[0] += 1
        doc = {"tagout": 1, "deployment": DEPLOYMENT, "trip": scope, "nonce": hexdigest(u32(COUNT[0])), "issued_at": AT, "instance": "host-1:4711", "reason": "loop"}
        return {"document": js({**doc, **more}), "signatures": []}

    tripped = trip()
    lock = h.send(tripped, "a trip", [34, 134], kind="trip")
    h.look("a/x", DENIED, "it halts its scope", 134)
    h.look("a/y", ENABLED, "and nothing else", 134)
    h.send(tripped, "the trip again", 106, kind="trip")
    other = trip()
    h.send({**other, "signatures": [sign(ALICE, data_of(other))]}, "a trip that is signed", [34, 134], "bad-document", kind="trip")
    h.send(trip(deployment=OTHER), "a trip of another deployment", [78, 134], "wrong-deployment", kind="trip")
    h.send(tripped, "a trip as a command", [58, 134], "unsigned")
    h.send(envelope(js(document("stop", "a", mode="halt")), ALICE), "a stop as a trip", [33, 134], "bad-document", kind="trip")
    h.release([lock], "a", name="its release", musts=[112, 134])
    h.start([lock], "a", name="its start", musts=[114, 134])
    h.look("a/x", ENABLED, "it runs again", 134)
    h.send(tripped, "the trip afterwards", 107, "used", kind="trip")

    h = History("outcomes and rules")
    lock, throttled = h.stop(), h.tighten("throttle", limits={"calls_per_minute": 3})

    def outcome(of, **more):
        return {"document": js({"tagout": 1, "outcome": of, **more}), "signatures": []}

    h.send(outcome(lock, node="n", later_field=1.5), "an outcome with fields to come", [38, 135], kind="outcome")
    h.send(outcome(lock), "a second outcome", 135, "outcome-known", kind="outcome")
    h.send(outcome(throttled), "an outcome of a throttle", 135, kind="outcome")
    h.send(outcome(PINNED), "an outcome of the genesis", 135, "no-such-lock", kind="outcome")
    h.send(outcome(ID_A), "an outcome of nothing", 135, "no-such-lock", kind="outcome")
    h.send(outcome("x"), "an outcome without a digest", 38, "bad-document", kind="outcome")
    ended = h.stop("b", "pause")
    h.release([ended], "b")
    h.send(outcome(ended), "an outcome of a stop that is over", 135, kind="outcome")
    rule = lambda n, **more: {"document": js({"tagout": 1, "deployment": DEPLOYMENT, "rule": n, **more}), "signatures": []}
    h.send(rule(1), "the rule in force", [37, 136], "rule-in-force", kind="rule-version")
    h.send(rule(2), "a rule to come", [37, 136], "rule-unknown", kind="rule-version")
    h.send(rule(0), "rule 0", 37, "bad-document", kind="rule-version")
    h.send(rule(2, note="x"), "a rule with a key more", 37, "bad-document", kind="rule-version")
    h.send(rule(2, deployment=OTHER), "a rule of another deployment", 78, "wrong-deployment", kind="rule-version")
    h.stop(deployment=OTHER, name="a stop of another deployment", musts=78, want="wrong-deployment")
    h.stop(by=(), name="a stop without a signature", musts=58, want="unsigned")
    h.stop(by=(CAROL,), name="a stop by who may not", musts=[71, 73], want="no-role")

    h = History("the strongest lock of each rank is shown")
    h.grant("*", essential=["x"], limits={"calls_per_minute": 50, "tokens_per_minute": 50})
    h.grant("a/x", essential=["y"], limits={"calls_per_minute": 60, "tokens_per_minute": 40})
    h.grant("a")
    h.look("a/x", ENABLED, "grants from the longest scope up", 152)
    h.tighten("throttle", "*", limits={"calls_per_minute": 30, "tokens_per_minute": 30})
    h.tighten("throttle", "a", limits={"calls_per_minute": 20})
    h.look("a/x", ENABLED, "the lowest limit of each", [102, 152])
    h.tighten("throttle", "a/x", limits={"calls_per_minute": 10, "tokens_per_minute": 5})
    h.look("a/x", ENABLED, "one throttle stands for both", [102, 152])
    h.tighten("restrict", "a")
    h.tighten("restrict", "*")
    h.look("a/x", ESSENTIAL_ONLY, "the older restrict", 152)
    h.stop("a", "drain", drain_ms=600_000)
    h.now += 1000
    short = h.stop("*", "drain", drain_ms=60_000)
    found = h.look("a/x", ESSENTIAL_ONLY, "the drain that ends first", [95, 152])
    assert found["locks"][0] == short
    h.stop("a/x", "pause")
    h.tighten("isolate", "a")
    newer_below = h.stop("a/x")
    h.stop("*")
    found = h.look("a/x", DENIED, "one of each rank, in order", [98, 152])
    assert found["locks"][0] == newer_below and len(found["locks"]) == 6
    h.release([newer_below], "a/x")
    h.start([newer_below], "a/x/1")
    h.look("a/x/1", DENIED, "without what was started for the agent", [114, 152])
    h.look("a/x/2", DENIED, "with what was not", [114, 152])
    h.log("the whole log", [104, 138, 142])


# ---------------------------------------------------------------------------------------------------- random histories


class Dice:
    """Random choices that are the same in every version of Python."""

    def __init__(self, seed):
        self.state = sha256(f"tagout vectors {seed}".encode())

    def below(self, n):
        self.state = sha256(self.state)
        return int.from_bytes(self.state[:8], "big") % n

    def of(self, items):
        return items[self.below(len(items))]

    def some(self, items, most):
        picked = {self.below(len(items)) for _ in range(1 + self.below(most))} if items else set()
        return [items[n] for n in sorted(picked)]


SCOPES = ["*", "a", "a/x", "a/x/1", "a/y", "ab", "b"]


def random_history(number):
    """Proposals of every kind in no order, most of them sensible, and after each a look at some agent."""
    dice, h = Dice(number), History(f"random {number}")
    ids, grants, coming, newest, epochs = [], [], [], GENESIS, 1
    h.grant("*", essential=["x"])

    def people(*usual):
        return dice.of([usual] * 6 + [(ALICE,), (BOB, CAROL), (ALICE, CAROL), (BOT,), (ALICE, BOB, CAROL), (NEW, CAROL), (STRANGER,)])

    def lock_document(scope):
        kind = dice.of(["halt", "halt", "drain", "pause", "restrict", "isolate", "throttle"])
        if kind in ("restrict", "isolate"):
            return document(kind, scope)
        if kind == "throttle":
            return document(kind, scope, limits=dice.of([{"calls_per_minute": dice.below(9)}, {"tokens_per_minute": 5, "calls_per_minute": 9}]))
        return document("stop", scope, mode=kind, **({"drain_ms": 60_000 * (1 + dice.below(9))} if kind == "drain" else {}))

    def locks_for(action, scope):
        """Mostly what the document can act on, sometimes anything."""
        ledger = h.ledger
        fitting = [i for i, k in sorted(ledger.locks.items(), key=lambda item: item[1]["index"]) if ledger.can_act(action, scope, k)]
        roll = dice.below(10)
        if roll < 2 and fitting:
            before = ledger.size - dice.below(3)
            listed = [i for i in fitting if ledger.locks[i]["index"] < before] or fitting
            return bulk_of(listed[: len(listed) - (dice.below(8) == 0)] or listed, before)
        if roll < 7 and fitting:
            return dice.some(fitting, 4)
        return dice.some(ids + [digest_of(e) for _, e in coming] + [hexdigest(b"nothing")], 2)

    for _ in range(40):
        scope, roll, sent = dice.of(SCOPES), dice.below(45), None
        if roll < 7:
            sent = ("command", envelope(js(lock_document(scope)), *people(ALICE)))
            if dice.below(4) == 0:
                coming.append(sent)
                sent = None
        elif roll < 14:
            more = {"lost_from": dice.of([h.ledger.size, *[k["lost_from"] for k in h.ledger.locks.values() if k["lost_from"]]])} if dice.below(6) == 0 else {}
            sent = ("command", envelope(js(document("release", scope, locks=locks_for("release", scope), **more)), *people(ALICE, BOB)))
        elif roll < 21:
            sent = ("command", envelope(js(document("start", scope, locks=locks_for("start", scope))), *people(ALICE, BOB)))
        elif roll < 26:
            trust = h.ledger.trust
            seen = {"epoch": dice.of([trust.epoch[1]] * 9 + [PINNED]), "size": dice.below(h.ledger.size + 2), "authority": 1 + dice.below(trust.authority["version"] + dice.below(2))}
            doc = document("grant", scope, expires_at=instant(h.now + dice.below(200) * 60_000), seen=seen, essential=[dice.of(["x", "y"])])
            sent = ("command", envelope(js(doc), *people(BOB, CAROL)))
            grants.append(digest_of(sent[1]))
            if dice.below(5) == 0:
                coming.append(sent)
                sent = None
        elif roll < 28 and grants:
            sent = ("command", envelope(js(document("revoke", scope, grants=dice.some(grants + ids, 3))), *people(ALICE)))
        elif roll == 28:
            sent = ("command", envelope(js(document("suspend", keys=[dice.of([BOB, NEW, STRANGER, CAROL, ROOT_3]).line])), *people(ALICE)))
        elif roll < 31:
            trust = h.ledger.trust
            bob = dice.of([[BOB], [NEW], [BOB, NEW]])
            principals = [{**p, "keys": [k.line for k in bob] if p["name"] == "bob" else p["keys"]} for p in GENESIS_DOC["principals"]]
            retired = [{"key": BOB.line, "principal": "bob", "grants": dice.some(grants, 3)}] if BOB not in bob and grants and dice.below(2) else None
            roles = dice.of([GENESIS_DOC["roles"], GENESIS_DOC["roles"], [r if r["name"] != "consent" else {**r, "threshold": 3} for r in GENESIS_DOC["roles"]]])
            more = {"retired": retired} if retired else {}
            next_ = successor(newest, trust.authority["version"] + 1, dice.of([(ROOT_1, ROOT_2)] * 5 + [(ROOT_3,)]), principals=principals, roles=roles, disables=dice.below(4), **more)
            sent = ("command", next_)
        elif roll == 31:
            epochs += 1
            trust, lost = h.ledger.trust, h.ledger.size + dice.of([0, 0, 0, 1])
            text = restore_document(epochs, hexdigest(u32(epochs)), (trust.authority["version"], trust.authority["digest"]), lost + 5, "ab" * 32, lost)
            sent = ("restore", envelope(text, ROOT_1, ROOT_2))
            if dice.below(3) == 0:
                coming.append(sent)
        elif roll < 34:
            trip = {"tagout": 1, "deployment": DEPLOYMENT, "trip": scope, "nonce": hexdigest(u32(COUNT[0])), "issued_at": AT, "instance": "i", "reason": "r"}
            COUNT[0] += 1
            sent = ("trip", {"document": js(trip), "signatures": []})
        elif roll == 34 and ids:
            sent = ("outcome", {"document": js({"outcome": dice.of(ids)}), "signatures": []})
        elif roll < 37 and coming:
            sent = coming.pop(dice.below(len(coming)))
        elif roll < 38:
            step = dice.of([s for s in h.steps if "envelope" in s])
            sent = (step["kind"], ENVELOPES[step["envelope"]])
        elif roll < 42:
            loosening = [s for s in h.steps if "envelope" in s and json.loads(ENVELOPES[s["envelope"]]["document"]).get("action") in PROPOSED]
            if loosening:
                text = ENVELOPES[dice.of(loosening)["envelope"]]["document"]
                kind = dice.of(["proposal", "proposal", "proposal", "command"])
                usual = (ALICE, BOB) if kind == "command" else dice.of([(ALICE,), (BOB,), (CAROL,)])
                sent = (kind, envelope(text, *people(*usual)))
        elif roll == 42:
            ledger = h.ledger
            named = dice.of([*ledger.proposals, *ledger.refused, hexdigest(b"nothing")])
            known = ledger.proposals.get(named) or {"scope": scope}
            sent = ("command", envelope(js(document("refuse", dice.of([known["scope"]] * 4 + [scope]), proposal=named)), *people(dice.of([BOB, BOT]))))
        else:
            h.now += dice.of([-1, 1, 5, 60]) * 60_000
        if sent is not None:
            kind, envelope_ = sent
            want = h.ledger.size
            answer, entry = h.ledger.apply(kind, h.now, envelope_)
            inputs = {"kind": kind, "time_ms": h.now, "envelope": shared(envelope_)}
            h.step(None, (), inputs, {**answer, **({"entry": hexdigest(entry)} if entry else {})}, answer.get("reject", "accept"))
            if entry:
                assert h.ledger.size == want + 1
                if digest_of(envelope_) in h.ledger.locks:
                    ids.append(digest_of(envelope_))
                if h.ledger.trust.authority["digest"] == digest_of(envelope_):
                    newest = envelope_
        agent = dice.of(SCOPES)
        after = dice.of([0, 0, 60_000, 600_000])
        h.look(agent, h.ledger.verdict(agent, h.now + after), after=after)
    h.look("a/x/1", h.ledger.verdict("a/x/1", h.now), f"what is so in the end of history {number}", [98, 104, 152])
    h.log(f"the log of history {number}", [103, 104, 138, 142])


def enrolment_cases():
    def add(name, musts, doc, want="accept"):
        case("command", name, musts, {"document": js(doc)}, lambda: shown(parse_command(js(doc).encode())), want)

    token, other = hexdigest(b"tagout_" + b"a" * 64), hexdigest(b"tagout_" + b"b" * 64)
    add("an enroll", 22, document("enroll", "a/b", token=token))
    add("an enroll with its end", 22, document("enroll", "*", token=token, expires_at=instant(T0)))
    add("an enroll without its token", 22, document("enroll", "a"), "bad-document")
    add("an enroll that holds the token itself", [22, 11], document("enroll", "a", token="tagout_" + "a" * 64), "bad-document")
    add("an enroll without an end that is null", [22, 9], document("enroll", "a", token=token, expires_at=None), "bad-document")
    add("an enroll with a case", 22, document("enroll", "a", token=token, case="x"), "bad-document")
    add("an enroll without a scope", [22, 31], document("enroll", token=token, drop=["scope"]), "bad-document")

    def authority(name, want="accept", musts=60, **changes):
        text = js(genesis_document(**changes))
        case("authority", name, musts, {"document": text}, lambda: summary(parse_authority(text.encode())), want)

    roles = GENESIS_DOC["roles"] + [{"name": "enrolment", "principals": ["alice", "dora"], "actions": ["enroll"], "scopes": ["*"], "threshold": 1}]
    authority("leases for enrolled agents only", roles=roles, enrolment=True)
    authority("enrolment that is false", "bad-document", enrolment=False)
    authority("enrolment that is a word", "bad-document", enrolment="required")
    authority("an automation that may enroll", "bad-document", 66, roles=[{**roles[-1], "principals": ["bot"]}])

    h = History("enrolments")
    enroll = lambda scope="a", by=(ALICE,), **more: envelope(js(document("enroll", scope, **{"token": token, **more})), *by)
    h.send(enroll(), "nobody may enroll yet", [71, 73], "no-role")
    h.admit(None, "a", "no token where none is asked for")
    h.admit(token, "a", "a token that nobody enrolled, though none is asked for", "not-enrolled")
    h.send(successor(GENESIS, roles=roles, enrolment=True), "the authority asks for enrolment", 60)
    h.admit(None, "a", "no token where one is asked for", "not-enrolled")
    h.send(enroll(by=(BOT,)), "an enroll by an automation", [66, 73], "no-role")
    h.send(enroll(by=(BOB,)), "an enroll by somebody without the role", 73, "no-role")
    first = h.send(enroll(), "an enroll", [71, 180])
    h.again(first, "the enroll again", 106)
    h.look("a/x", DENIED, "it consents to nothing", 93)
    for agent, want in (("a", "accept"), ("a/x/1", "accept"), ("ab", "enrolled-elsewhere"), ("b", "enrolled-elsewhere"), ("*", "enrolled-elsewhere")):
        h.admit(token, agent, f"its token for {agent}", want)
    h.admit(other, "a", "another token", "not-enrolled")
    h.send(enroll("b", expires_at=instant(h.now)), "an enroll that ends now", 180, "expired")
    second = h.send(enroll("b", expires_at=instant(h.now + 1)), "one token for a second scope, for a moment", 180)
    h.admit(token, "b/y", "it holds")
    h.admit(token, "b/y", "until it ends", "enrolled-elsewhere", after=1)
    h.tighten("revoke", "b", grants=[first], name="a revoke of an enrolment from elsewhere", musts=181, want="grant-outside-scope")
    h.tighten("revoke", "*", grants=[first], by=(BOT,), name="an automation revokes an enrolment", musts=181)
    h.admit(token, "a", "after the revoke only the other scope is left", "enrolled-elsewhere")
    h.admit(token, "a", "and then nothing", "not-enrolled", after=1)
    h.again(first, "the revoked enrolment again", 181, "void")
    h.tighten("revoke", "b", grants=[first], name="a revoke of what is void already", musts=181)
    coming, coming_too = enroll("c", token=other), enroll("c", token=other, issued_at=instant(T0))
    h.tighten("revoke", "b", grants=[digest_of(coming)], name="a revoke of an enrolment to come, for elsewhere", musts=[121, 180])
    h.tighten("revoke", "c", grants=[digest_of(coming_too)], name="a revoke of an enrolment to come", musts=[121, 180])
    h.send(coming, "an enrolment that was revoked for elsewhere", 180)
    h.send(coming_too, "an enrolment that was revoked before it came", 180, "void")
    h.send(envelope(js(document("suspend", keys=[ALICE.line, ALICE_2.line])), ALICE), "its signer is suspended", 181)
    h.admit(other, "c", "the enrolment stays")
    lost = h.ledger.size
    version = h.ledger.trust.authority
    text = restore_document(2, "e3" * 32, (version["version"], version["digest"]), lost, h.ledger.root().hex(), lost)
    h.send(envelope(text, ROOT_1, ROOT_2), "a restore", [132, 181], kind="restore")
    h.admit(other, "c", "the enrolment is there in the next epoch")
    h.log("the log of the enrolments", [103, 104])


# ---------------------------------------------------------------------------------------------------- proposals


def proposal_cases():
    def add(name, musts, doc, want="accept"):
        command_case("command", name, musts, js(doc), want)

    named = "ab" * 32
    add("a refuse", 22, document("refuse", "a/b", proposal=named))
    add("a refuse with a case", 22, document("refuse", "*", proposal=named, case="INC-1"))
    add("a refuse without what it refuses", 22, document("refuse", "a"), "bad-document")
    add("a refuse of two", [22, 11], document("refuse", "a", proposal=[named, named]), "bad-document")
    add("a refuse without a scope", [22, 31], document("refuse", proposal=named, drop=["scope"]), "bad-document")

    h = History("proposals")
    h.grant("*")
    lock = h.stop("a")
    by = lambda doc, *who: envelope(js(doc), *who)
    propose = lambda doc, who, *more, **other: h.send(by(doc, *who), *more, kind="proposal", **other)
    release, start = document("release", "a", locks=[lock]), document("start", "a", locks=[lock])
    propose(document("stop", "a", mode="halt"), (ALICE,), "a proposal of a stop", 188, "not-proposed")
    propose(json.loads(successor(GENESIS)["document"]), (ROOT_1,), "a proposal of an authority", 188, "not-proposed")
    h.send({"document": js(release), "signatures": []}, "a proposal without a signature", [58, 188], "unsigned", kind="proposal")
    propose(release, (STRANGER,), "a proposal by a stranger", 188, "no-valid-signature")
    propose(release, (BOT,), "a proposal by an automation", [188, 66], "no-role")
    propose(release, (DORA,), "a proposal by who may not sign it", 188, "no-role")
    propose({**release, "deployment": OTHER}, (ALICE,), "a proposal of another deployment", 78, "wrong-deployment")
    propose(release, (ALICE, BOB), "a proposal that enough signed", 188, "signed-by-enough")
    propose(document("release", "b", locks=[lock]), (ALICE,), "a proposal of a release from elsewhere", 189, "lock-outside-scope")
    propose(grant_document("a", h.now), (ALICE,), "a proposal of a grant that ends now", 189, "expired")
    identity = propose(release, (ALICE,), "a proposal", [188, 193])
    propose(start, (BOB,), "a proposal of a start before its release", 189)
    h.look("a/x", DENIED, "they enable nothing", 193)
    h.send(by(release, BOB), "the second signature alone is no command", 71, "below-threshold")
    propose(release, (ALICE,), "the same signature again", 190, "nothing-new")
    propose(release, (ALICE_2,), "another key of the same person", 190, "nothing-new")
    propose(release, (BOT,), "an automation adds nothing", 188, "no-role")
    propose(release, (BOT, BOB), "a second person, with an automation beside", [190, 68])
    propose(release, (CAROL,), "a third person", 190)
    h.look("a/x", DENIED, "also with enough signatures no proposal takes effect", 193)
    h.send(by(release, ALICE, BOB), "the command with enough of them", 194)
    propose(release, (CAROL,), "a proposal of what took effect", 189)
    refuse = lambda scope, what, who, *more, **other: h.tighten("refuse", scope, *more, proposal=what, by=who, **other)
    refuse("a", identity, (ALICE,), "a refusal of what took effect", 194, "no-such-proposal")
    h.send(by(start, BOB, CAROL), "the start", 194)
    h.look("a/x", ENABLED, "and the agent runs", 193)

    h = History("proposals that end")
    h.grant("*")
    first, second = h.stop("a"), h.stop("team")
    release = lambda scope="a", locks=(first,), **more: document("release", scope, locks=list(locks), **more)
    one = release()
    identity = propose(one, (ALICE,))
    h.now += 3_599_999
    propose(one, (BOB,), "a signature in the last moment", 191)
    h.now += 1
    propose(one, (ALICE,), "after its end it begins anew", 191)
    propose(one, (BOB,), "and takes who had signed before", [190, 191])
    refuse("*", identity, (BOB,), "a refusal for another scope", 196, "proposal-elsewhere")
    refuse("a", identity, (DORA,), "a refusal by who may neither sign nor stop", 195, "no-role")
    refuse("a", identity, (STRANGER,), "a refusal by a stranger", 195, "no-valid-signature")
    refuse("a", "ab" * 32, (BOB,), "a refusal of nothing", 196, "no-such-proposal")
    refuse("a", "ab" * 32, (STRANGER,), "a refusal of nothing by a stranger", [195, 108], "no-valid-signature")
    last = refuse("a", identity, (CAROL,), "a refusal by one who may sign it", 195)
    h.again(last, "the refusal again", 106)
    refuse("a", identity, (ALICE,), "a second refusal", 197, "refused")
    propose(one, (ALICE,), "a proposal of what was refused", 197, "refused")
    h.send(by(one, ALICE, BOB), "a command that was refused", 197, "refused")
    h.send(by(one, ALICE), "signatures are judged before that", [108, 197], "below-threshold")
    other = propose(release("team", (second,)), (ALICE,))
    refuse("team", other, (DORA,), "a refusal by one who may stop there", 195)
    other = propose(release("team", (second,)), (ALICE,))
    refuse("team", other, (BOT,), "a refusal by an automation", 195)
    expired = propose(release(), (ALICE,))
    h.now += 3_600_000
    refuse("a", expired, (BOB,), "a refusal of one that has expired", 196)
    forgotten = propose(release(), (ALICE,))
    h.now += 3_600_000
    propose(release(), (ALICE,))
    refuse("a", forgotten, (BOB,), "an expired one is forgotten with the next proposal", 196, "no-such-proposal")
    for n in range(63):
        propose(release(id=f"many-{n}"), (ALICE,))
    propose(release(), (BOB,), "a proposal more than there may be", 192, "too-many-proposals")
    h.stop("b", name="a stop meanwhile", musts=192)
    h.now += 3_600_000
    kept = propose(release(), (BOB,), "when they have expired there is room", 192)
    h.send(envelope(js(document("suspend", keys=[BOB.line])), ALICE))
    text = [p for p in ENVELOPES if digest_of(p) == kept][0]["document"]
    h.send(envelope(text, CAROL), "a suspended key collects no more", [85, 190], kind="proposal")
    h.send(envelope(text, ALICE, CAROL), "those who are left are enough", 194)
    kept = propose(release("team", (second,)), (ALICE,))
    lost, version = h.ledger.size, h.ledger.trust.authority
    text = restore_document(2, "e4" * 32, (version["version"], version["digest"]), lost, h.ledger.root().hex(), lost)
    h.send(envelope(text, ROOT_1, ROOT_2), "a restore", [132, 194], kind="restore")
    refuse("team", kept, (ALICE,), "a restore ends all proposals", 194, "no-such-proposal")
    h.log("the log of the proposals", [103, 104])


def drill_cases():
    h = History("drills")
    h.grant("*")

    def outcome(of, confirmed=2, bounded=1, slowest_ms=340, **more):
        found = {"tagout": 1, "outcome": of, "confirmed": confirmed, "bounded": bounded, "slowest_ms": slowest_ms, **more}
        h.send({"document": js(found), "signatures": []}, kind="outcome")
        return h.ledger.size - 1

    place = lambda digest, index: {"digest": digest, "index": index}
    instance = lambda after_ms=None, agent="a", **more: {
        "agent": agent, "instance": "host-1:4711", **({"bounded": True} if after_ms is None else {"after_ms": after_ms}), **more}

    def drill(of, scope="a", doc=(), **more):
        body = {"scope": scope, "stop": place(of, h.ledger.used[of]["index"]), "outcome": 0, "confirmed": 2, "bounded": 1,
                "slowest_ms": 340, "instances": [instance(12, scope), instance(340, scope), instance(None, scope)], **more}
        body = {key: value for key, value in body.items() if value is not None}
        return {"tagout": 1, "deployment": DEPLOYMENT, "issued_at": AT, "drill": body, **dict(doc)}

    def send(doc, name, musts, want="accept", by=(BOT,), namespace=DRILL_NAMESPACE, parts=""):
        text = js(doc) + parts
        signatures = [sign(who, text.encode(), namespace=namespace) for who in by]
        return h.send({"document": text, "signatures": signatures}, name, musts, want, kind="drill")

    lock = h.stop("a")
    send(drill(lock), "a drill before its outcome", 201, "no-outcome")
    at = outcome(lock)
    release = h.release([lock], "a")
    released = place(release, h.ledger.size - 1)
    halfway = drill(lock, outcome=at, release=released)
    started = place(h.start([lock], "a"), h.ledger.size - 1)
    good = {"outcome": at, "release": released, "start": started}
    send(drill(lock, **good), "a drill without a signature", [58, 200], "unsigned", by=())
    send(drill(lock, **good), "a drill by a stranger", 200, "no-valid-signature", by=(STRANGER,))
    send(drill(lock, **good), "a drill by who may not stop", 200, "no-role", by=(CAROL,))
    send(drill(lock, **good), "a drill signed as a command", [48, 200], "no-valid-signature", namespace=NAMESPACE)
    stop = js(document("stop", "a", mode="halt"))
    h.send({"document": stop, "signatures": [sign(ALICE, stop.encode(), namespace=DRILL_NAMESPACE)]},
           "a stop signed as a drill", 48, "no-valid-signature")
    send(document("stop", "a", mode="halt"), "a stop as a drill", 198, "bad-document")
    send(drill(lock, **good, doc={"deployment": OTHER}), "a drill of another deployment", 78, "wrong-deployment")
    send(drill(lock, **good), "a drill of 32769 bytes", 198, "too-large", parts=" " * (32769 - len(js(drill(lock, **good)))))
    for key in ("tagout", "deployment", "issued_at", "drill"):
        text = {k: v for k, v in drill(lock, **good).items() if k != key}
        send(text, f"a drill without {key}", 198, "bad-document")
    for key in ("scope", "stop", "outcome", "confirmed", "bounded", "instances"):
        send(drill(lock, **{**good, key: None}), f"a drill without its {key}", 198, "bad-document")
    for name, must, more in [
        ("with a key more", 198, {"note": "x"}),
        ("with a stop that is no object", 198, {"stop": lock}),
        ("with a key more in its stop", 198, {"stop": {**place(lock, 2), "x": 1}}),
        ("with a number as text", 198, {"outcome": str(at)}),
        ("with no instances", 198, {"instances": []}),
        ("with 65 instances", 198, {"instances": [instance(340)] + 64 * [instance(1)], "confirmed": 100}),
        ("with an instance that confirmed and is bounded", 198, {"instances": [instance(340, bounded=True)]}),
        ("with an instance of which nothing is said", 198, {"instances": [{"agent": "a", "instance": "x"}]}),
        ("with an instance that is not bounded", 198, {"instances": [instance(bounded=False)]}),
        ("with an instance of 129 bytes", 198, {"instances": [{**instance(340), "instance": "x" * 129}]}),
        ("with an instance of elsewhere", 199, {"instances": [instance(340, "b")]}),
        ("with a start and no release", 199, {"release": None}),
        ("with more that confirmed than it counts", 199, {"confirmed": 1}),
        ("with more that are bounded than it counts", 199, {"bounded": 0}),
        ("with one slower than the slowest", 199, {"slowest_ms": 339}),
        ("with all, and a slowest that none of them is", 199, {"slowest_ms": 341}),
        ("without its slowest", 199, {"slowest_ms": None}),
        ("with a slowest and nobody who confirmed", 199, {"confirmed": 0, "instances": [instance()]}),
    ]:
        send(drill(lock, **{**good, **more}), f"a drill {name}", must, "bad-document")
    other = h.stop("b")
    outcome(other)
    send(drill(lock, **{**good, "stop": place(ID_A, 2)}), "a drill of a stop that never was", 201, "no-such-stop")
    send(drill(lock, **{**good, "stop": released}), "a drill of what is no stop", 201, "no-such-stop")
    send(drill(lock, "a/x", **good), "a drill of a part of its stop", 201, "drill-elsewhere")
    send(drill(other, **good), "a drill of a stop of elsewhere", 201, "drill-elsewhere")
    faster = [instance(12), instance(), instance(11)]
    for name, more in [
        ("a faster slowest", {"slowest_ms": 12, "instances": faster}),
        ("one more that confirmed", {"confirmed": 3}),
        ("one more that is bounded", {"bounded": 2}),
        ("another entry of its stop", {"stop": place(lock, 3)}),
        ("another entry of its outcome", {"outcome": at + 1}),
        ("another entry of its release", {"release": place(release, started["index"])}),
        ("another document of its release", {"release": place(started["digest"], released["index"])}),
        ("another document of its start", {"start": place(ID_A, started["index"])}),
        ("neither release nor start", {"release": None, "start": None}),
    ]:
        send(drill(lock, **{**good, **more}), f"a drill with {name}", 202, "drill-differs")
    send(halfway, "a drill from before its start", 202, "drill-differs")
    before = h.look("a/x", ENABLED, "before its drill", 137)
    whole = send(drill(lock, **good), "a drill by an automation", [198, 199, 200, 201, 202])
    assert h.look("a/x", ENABLED, "a drill changes nothing", 137) == before
    send(drill(lock, **good), "the same drill again", [106, 201])
    send(drill(lock, **good, doc={"issued_at": "2026-11-22T15:00:01Z"}), "a second drill of one stop", 201, "drill-known", by=(ALICE,))
    h.release([whole], "a", "a release of a drill", 112, "no-such-lock")
    send(drill(other, "b", outcome=at + 4, instances=[instance(340, "b/x")]), "a drill that is not brought back, and lists some", [199, 202], by=(ALICE,))
    h.look("b", DENIED, "it goes on to hold", 137)
    paused = h.stop("b/x", "pause")
    at = outcome(paused, confirmed=None, slowest_ms=None)
    released = place(h.release([paused], "b/x"), h.ledger.size - 1)
    send(drill(paused, "b/x", outcome=at, release=released, confirmed=0, slowest_ms=None, instances=[instance(None, "b/x")]),
         "a drill of a pause to which nobody answered", [38, 202])
    for name, more in [("below 0", {"confirmed": -1}), ("with a fraction", {"bounded": 1.0}), ("as text", {"slowest_ms": "340"})]:
        lock = h.stop("c")
        at = outcome(lock, **more)
        send(drill(lock, "c", outcome=at), f"a drill of an outcome with a figure {name}", [38, 202], "drill-differs")
    lock = h.stop("c")
    twice = js({"outcome": lock, "confirmed": 2, "bounded": 1, "slowest_ms": 340})[:-1] + ',"confirmed":2}'
    h.send({"document": twice, "signatures": []}, "an outcome with a figure twice", 38, kind="outcome")
    send(drill(lock, "c", outcome=h.ledger.size - 1), "a drill of that", [38, 202], "drill-differs")
    h.log("the log of the drills", [103, 104])


# ---------------------------------------------------------------------------------------------------- all of it

NOTE = "Written by generate.py from SPEC.md; do not edit. Cases are described in README.md."


def main():
    folder = sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.path.abspath(__file__))
    for make in (json_cases, scope_cases, command_cases, placing_cases, sshsig_cases, envelope_cases, authority_cases, chain_cases,
                 rule_cases, entry_cases, tree_cases, note_cases, checkpoint_cases, view_cases, lease_cases, clearance_cases, history_cases):
        make()
    for number in range(int(sys.argv[2]) if len(sys.argv) > 2 else RANDOM_HISTORIES):
        random_history(number)
    enrolment_cases()
    proposal_cases()
    drill_cases()
    files = {topic: {"note": NOTE, "cases": cases} for topic, cases in TOPICS.items()}
    files["history"] = {"note": NOTE, "histories": HISTORIES}
    files["envelopes"] = {"note": NOTE, "pinned": PINNED, "envelopes": ENVELOPES}
    every = [c for cases in TOPICS.values() for c in cases] + [s for h in HISTORIES for s in h["steps"] if "name" in s]
    for topic, content in files.items():
        with open(os.path.join(folder, f"{topic}.json"), "w", encoding="utf-8", newline="\n") as file:
            head, items = list(content.items())[:-1], list(content.items())[-1]
            lines = ["{", *(f'"{k}": {js(v)},' for k, v in head), f'"{items[0]}": [']
            if topic == "history":
                lines += [",\n".join(f'{{"name":{js(h["name"])},"steps":[\n' + ",\n".join(map(js, h["steps"])) + "\n]}" for h in items[1])]
            else:
                lines += [",\n".join(map(js, items[1]))]
            file.write("\n".join([*lines, "]", "}"]) + "\n")
    rejects = sum("reject" in c["expect"] for c in every)
    print(f"{len(every) - rejects} accept, {rejects} reject, {len(every)} in all")


if __name__ == "__main__":
    main()
