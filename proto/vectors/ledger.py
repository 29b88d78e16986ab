"""The ledger of SPEC.md section 11, small and slow: what the vectors expect of a history."""

import copy
import json

from tagout import (
    DRILL_NAMESPACE, NEEDS_START, PROPOSED, U64_MAX, Refused, Trust, check_bounds, counting, covers, data_of, digest_of, encode_entry, fact, hexdigest, is_digest,
    kind_name, leaf_hash, may_refuse, parse_command, parse_drill, parse_restore, parse_rule, parse_trip, proofs, root, terms, verdict,
)

RANKS = ["halt", "drain", "isolate", "pause", "restrict", "calls_per_minute", "tokens_per_minute"]


def upward(scope):
    """The scope, then each above it, the fleet last."""
    if scope != "*":
        parts = scope.split("/")
        yield from ("/".join(parts[:n]) for n in range(len(parts), 0, -1))
    yield "*"


def figures_of(outcome):
    """M38."""
    names, keys = ("confirmed", "bounded", "slowest_ms"), []

    def seen(pairs):
        keys[:] = pairs  # of the outermost object, which ends last
        return dict(pairs)

    json.loads(outcome, object_pairs_hook=seen)
    own = [(key, value) for key, value in keys if key in names]
    good = all(value is None or type(value) is int and 0 <= value <= U64_MAX for _, value in own)
    found = dict(own) if good and len(dict(own)) == len(own) else {}
    return {"confirmed": found.get("confirmed") or 0, "bounded": found.get("bounded") or 0, "slowest_ms": found.get("slowest_ms")}


class Ledger:
    def __init__(self, pinned):
        self.pinned, self.trust, self.distrust = pinned, None, 0
        self.entries, self.leaves, self.prev = [], [], "00" * 32
        self.locks, self.grants, self.void, self.used, self.waiting = {}, [], {}, {}, {}
        self.enrolments = []
        self.proposals, self.refused = {}, {}
        self.rule = 1

    @property
    def size(self):
        return len(self.entries)

    def root(self):
        return root(self.leaves)

    def apply(self, kind, time_ms, envelope):
        """The answer, {"accept": receipt} or {"reject": code}, and the entry that was appended or None."""
        size = self.size
        try:
            receipt = self.judge(kind, time_ms, envelope)
            answer = {"accept": receipt}
        except Refused as refused:
            answer = {"reject": refused.code}
        return answer, self.entries[-1] if self.size > size else None

    def append(self, kind, time_ms, envelope):
        try:
            entry = encode_entry(kind, self.size, time_ms, self.prev, envelope)
        except Refused:
            raise Refused("too-large") from None
        self.entries.append(entry)
        self.leaves.append(leaf_hash(entry))
        self.prev = hexdigest(entry)
        return self.size - 1

    def receipt(self, index, time_ms, digest, repeated=False, awaited=0):
        return {"index": index, "time_ms": time_ms, "digest": digest, "repeated": repeated, "awaited": awaited}

    def repeated(self, digest):
        """M106, M107."""
        used = self.used.get(digest)
        if used is None:
            return None
        lock = self.locks.get(digest)
        if used["ended"] or (lock and lock["released_at"] is not None):
            raise Refused("used")
        return self.receipt(used["index"], used["time_ms"], digest, repeated=True)

    def judge(self, kind, time_ms, envelope):
        digest = digest_of(envelope)
        if kind == "outcome":
            return self.outcome(time_ms, envelope)
        if kind == "command" and digest == self.pinned:
            if digest in self.used:
                return self.repeated(digest)
            trust = Trust(envelope, self.pinned)
            index = self.take(kind, time_ms, envelope)
            self.trust = trust
            return self.receipt(index, time_ms, digest)
        if kind in ("command", "restore", "proposal", "drill"):
            check_bounds(envelope)
        if self.trust is None:
            raise Refused("not-ready")
        judges = {"command": self.command, "trip": self.trip, "restore": self.restore, "rule-version": self.rule_version,
                  "proposal": self.propose, "drill": self.drill}
        return judges[kind](time_ms, envelope)

    def take(self, kind, time_ms, envelope):
        index = self.append(kind, time_ms, envelope)
        self.used[digest_of(envelope)] = {"index": index, "time_ms": time_ms, "ended": None, "outcome": None}
        self.proposals.pop(digest_of(envelope), None)
        return index

    # ------------------------------------------------------------------------------------------------ what is no command

    def outcome(self, time_ms, envelope):
        try:
            found = json.loads(envelope["document"])
            lock = found["outcome"]
            assert is_digest(lock)
        except Exception:
            raise Refused("bad-document") from None
        used = self.used.get(lock)
        if used is None or not (used["ended"] or lock in self.locks):
            raise Refused("no-such-lock")
        if used["outcome"] is not None:
            raise Refused("outcome-known")
        index = self.append("outcome", time_ms, envelope)
        used["outcome"] = {"index": index, "drill": None, **figures_of(envelope["document"])}
        return self.receipt(index, time_ms, digest_of(envelope))

    def drill(self, time_ms, envelope):
        """M200 to M202."""
        drill, digest = parse_drill(data_of(envelope)), digest_of(envelope)
        self.trust.check_deployment(drill["deployment"])
        self.trust.authorise("stop", drill["scope"], envelope, DRILL_NAMESPACE)
        first = self.repeated(digest)
        if first:
            return first
        named = drill["stop"]["digest"]
        used, lock = self.used.get(named), self.locks.get(named)
        if used is None or not (used["ended"] or lock):
            raise Refused("no-such-stop")
        if (lock or used["ended"])["scope"] != drill["scope"]:
            raise Refused("drill-elsewhere")
        outcome = used["outcome"]
        if outcome is None:
            raise Refused("no-outcome")
        if outcome["drill"] is not None:
            raise Refused("drill-known")
        ends = (used["ended"]["released_at"], used["ended"]["start"]) if used["ended"] else (lock["released_at"], None)
        by_log = [used["index"], outcome["index"], *ends, *(outcome[k] for k in ("confirmed", "bounded", "slowest_ms"))]
        index = lambda place: None if place is None else place["index"]
        said = [drill["stop"]["index"], drill["outcome"], index(drill["release"]), index(drill["start"]),
                *(drill[k] for k in ("confirmed", "bounded", "slowest_ms"))]
        places = [place for place in (drill["release"], drill["start"]) if place]
        if said != by_log or any(self.used.get(p["digest"], {}).get("index") != p["index"] for p in places):
            raise Refused("drill-differs")
        index = self.take("drill", time_ms, envelope)
        outcome["drill"] = index
        return self.receipt(index, time_ms, digest)

    def rule_version(self, time_ms, envelope):
        rule = parse_rule(data_of(envelope))
        self.trust.check_deployment(rule["deployment"])
        raise Refused("rule-in-force" if rule["rule"] <= self.rule else "rule-unknown")

    def trip(self, time_ms, envelope):
        trip = parse_trip(data_of(envelope))
        if envelope["signatures"]:
            raise Refused("bad-document")
        self.trust.check_deployment(trip["deployment"])
        first = self.repeated(digest_of(envelope))
        if first:
            return first
        tag = {"reason": trip["reason"], "by": ["trip:" + trip["instance"]], "case": None}
        return self.place("trip", time_ms, envelope, trip["scope"], "halt", tag)

    def restore(self, time_ms, envelope):
        restore = parse_restore(data_of(envelope))
        first = self.repeated(digest_of(envelope))
        if first:
            return first
        self.trust.check_restore(restore, envelope)
        if restore["lost_from"] != self.size:
            raise Refused("restore-elsewhere")
        if restore["size"] == self.size and restore["root"] != self.root().hex():
            raise Refused("restore-elsewhere")
        signers = self.trust.authority["root"]["signers"]
        signed = {p["key"]["raw"] for p in proofs(envelope)}
        by = [s["name"] for s in signers if s["key"]["raw"] in signed]
        tag = {"reason": restore["reason"], "by": by, "case": None}
        self.trust.epochs.append((restore["number"], restore["id"]))
        self.void.update({g["digest"]: self.size for g in self.grants})
        self.grants, self.proposals = [], {}
        return self.place("restore", time_ms, envelope, "*", "halt", tag, restore["lost_from"])

    # ------------------------------------------------------------------------------------------------ commands

    def command(self, time_ms, envelope):
        command, digest = parse_command(data_of(envelope)), digest_of(envelope)
        action = command["action"]
        self.trust.check_deployment(command["deployment"])
        if action == "authority":
            return self.repeated(digest) or self.authority(command["authority"], time_ms, envelope)
        by = self.signed(command, envelope)
        self.not_ended(action, digest)
        first = self.repeated(digest)
        if first:
            return first
        if "kind" in command:
            tag = {"reason": command["reason"], "by": by, "case": command.get("case")}
            return self.place("command", time_ms, envelope, command["scope"], command["kind"], tag)
        return getattr(self, action)(command, time_ms, envelope)

    def signed(self, command, envelope):
        """The names of those who signed, if they are enough (M71, M89, M195)."""
        if command["action"] == "grant":
            self.trust.judge_grant(envelope)
            return []
        if command["action"] == "refuse":
            return self.signed_refusal(command, envelope)
        return self.trust.authorise(command["action"], command["scope"], envelope)

    def not_ended(self, action, digest):
        if action in ("grant", "enroll") and digest in self.void:
            raise Refused("void")
        if digest in self.refused:
            raise Refused("refused")

    # ------------------------------------------------------------------------------------------------ proposals

    def counting(self, command, envelope):
        return counting(self.trust.authority, command["action"], command["scope"], self.trust.signers(envelope))

    def merged(self, command, known, envelope):
        """M190: of all signatures those of principals who count."""
        before = known["signatures"] if known else []
        every = before + [s for s in envelope["signatures"] if s not in before]
        one = lambda signatures: {"document": envelope["document"], "signatures": signatures}
        names, kept = self.counting(command, one(every)), {}
        for signature in every:
            alone = one([signature])
            if names & set(self.trust.signers(alone)):
                kept.setdefault(str(proofs(alone)[0]["key"]), signature)
        return one(list(kept.values()))

    def propose(self, time_ms, envelope):
        """M188 to M193."""
        command, digest = parse_command(data_of(envelope)), digest_of(envelope)
        action = command["action"]
        self.trust.check_deployment(command["deployment"])
        if action not in PROPOSED:
            raise Refused("not-proposed")
        enough = True
        try:
            self.signed(command, envelope)
        except Refused as refused:
            enough = False
            if refused.code != "below-threshold" or not self.counting(command, envelope):
                raise
        self.not_ended(action, digest)
        first = self.repeated(digest)
        if first:
            return first
        if enough:
            raise Refused("signed-by-enough")
        try:
            getattr(copy.deepcopy(self), action)(command, time_ms, envelope)
        except Refused as refused:
            if action != "start" or refused.code not in ("not-released", "other-locks"):
                raise
        open_ = {i: p for i, p in self.proposals.items() if time_ms < p["expires_at_ms"]}
        known = open_.get(digest)
        merged = self.merged(command, known, envelope)
        if len(merged["signatures"]) > 16:
            raise Refused("too-large")
        if known is None:
            if len(open_) >= 64:
                raise Refused("too-many-proposals")
            known = {"action": action, "scope": command["scope"], "expires_at_ms": time_ms + 3_600_000}
        elif self.counting(command, merged) <= self.counting(command, {**merged, "signatures": known["signatures"]}):
            raise Refused("nothing-new")
        index = self.append("proposal", time_ms, envelope)
        self.proposals = {**open_, digest: {**known, "signatures": merged["signatures"]}}
        return self.receipt(index, time_ms, digest)

    def signed_refusal(self, command, envelope):
        """M195."""
        signers = self.trust.signers(envelope)
        named = self.proposals.get(command["proposal"]) or self.refused.get(command["proposal"])
        if named is None:
            raise Refused("no-such-proposal" if signers else "no-valid-signature")
        may_refuse(self.trust.authority, named["action"], named["scope"], signers)
        return list(signers)

    def refuse(self, command, time_ms, envelope):
        """M196, M197."""
        named = command["proposal"]
        if named in self.refused:
            raise Refused("refused")
        if named not in self.proposals:
            raise Refused("no-such-proposal")
        if self.proposals[named]["scope"] != command["scope"]:
            raise Refused("proposal-elsewhere")
        index = self.take("command", time_ms, envelope)
        self.refused[named] = self.proposals.pop(named)
        return self.receipt(index, time_ms, digest_of(envelope))

    def authority(self, next_, time_ms, envelope):
        """M130."""
        self.trust.check_successor(next_, envelope)
        if len(self.disabled_by(next_, time_ms)) > next_["disables"]:
            raise Refused("disables-more")
        index = self.take("command", time_ms, envelope)
        self.trust.succeed(next_)
        self.distrusted(index)
        return self.receipt(index, time_ms, digest_of(envelope))

    def disabled_by(self, next_, now_ms):
        live = [g for g in self.grants if now_ms < g["grant"]["expires_at_ms"]]
        stays = {g["scope"] for g in live if self.trust.still_consents(g, next_)}
        lost = set()
        for scope in {g["scope"] for g in self.grants}:
            now = any(covers(g["scope"], scope) for g in live)
            after = any(covers(s, scope) for s in stays)
            if now and not after:
                lost.add(scope)
        return lost

    def suspend(self, command, time_ms, envelope):
        self.trust.check_suspend(command["keys"])
        index = self.take("command", time_ms, envelope)
        self.trust.suspend(command["keys"])
        self.distrusted(index)
        return self.receipt(index, time_ms, digest_of(envelope))

    def distrusted(self, index):
        """M128."""
        self.distrust = index
        for record in list(self.grants):
            if not self.trust.still_consents(record):
                self.grants.remove(record)
                self.void[record["digest"]] = index

    def has_room(self, ids):
        new = [i for i in ids if i not in self.waiting]
        if len(self.waiting) + len(new) > 100_000 or any(len(self.waiting.get(i, [])) >= 8 for i in ids):
            raise Refused("too-many-remembered")

    def wait(self, identity, action, command, index):
        name = {"action": action, "scope": command["scope"], "index": index, "lost_from": command.get("lost_from")}
        self.waiting.setdefault(identity, []).append(name)

    def listed(self, action, command):
        """M122."""
        named, scope = command["locks"], command["scope"]
        if isinstance(named, list):
            return named
        ids = [i for i, lock in sorted(self.locks.items(), key=lambda item: item[1]["index"])
               if lock["index"] < named["before"] and ("by" not in named or named["by"] in lock["tag"]["by"])
               and self.can_act(action, scope, lock)]
        if (len(ids), root([leaf_hash(bytes.fromhex(i)) for i in ids]).hex()) != (named["count"], named["root"]):
            raise Refused("other-locks")
        return ids

    def can_act(self, action, scope, lock):
        if action == "release":
            return lock["released_at"] is None and covers(scope, lock["scope"])
        here = covers(scope, lock["scope"]) or covers(lock["scope"], scope)
        started = any(covers(wave, scope) for wave in lock["waves"])
        return lock["released_at"] is not None and kind_name(lock["kind"]) in NEEDS_START and here and not started

    def release(self, command, time_ms, envelope):
        """M109 to M112, M117, M133."""
        ids = self.listed("release", command)
        unknown, restores, said = [], False, command.get("lost_from")
        for identity in ids:
            lock, used = self.locks.get(identity), self.used.get(identity)
            if lock is None and used is None:
                unknown.append(identity)
                continue
            if lock is None:
                lock = used["ended"]
                if not lock or lock["released_at"] >= self.distrust:
                    raise Refused("no-such-lock")
            if not covers(command["scope"], lock["scope"]):
                raise Refused("lock-outside-scope")
            if lock["released_at"] is not None and lock["released_at"] >= self.distrust:
                raise Refused("already-released")
            if lock["lost_from"] is not None:
                restores = True
                if said != lock["lost_from"]:
                    raise Refused("lost-from")
        if said is not None and not restores and not unknown:
            raise Refused("nothing-lost")
        self.has_room(unknown)
        index, awaited = self.take("command", time_ms, envelope), 0
        for identity in ids:
            lock, used = self.locks.get(identity), self.used.get(identity)
            if lock is not None:
                lock["released_at"] = index
                if kind_name(lock["kind"]) not in NEEDS_START:
                    self.end(identity, None)
            elif used is not None:
                used["ended"]["released_at"] = index
            else:
                self.wait(identity, "release", command, index)
                awaited += 1
        return self.receipt(index, time_ms, digest_of(envelope), awaited=awaited)

    def start(self, command, time_ms, envelope):
        """M113 to M117."""
        ids, scope = self.listed("start", command), command["scope"]
        unknown = []
        for identity in ids:
            lock, used = self.locks.get(identity), self.used.get(identity)
            if lock is None:
                if used is None:
                    if not any(name["action"] == "release" for name in self.waiting.get(identity, [])):
                        raise Refused("not-released")
                    unknown.append(identity)
                elif not used["ended"] or used["ended"]["start"] is None or used["ended"]["start"] >= self.distrust:
                    raise Refused("no-such-lock")
                elif not covers(scope, used["ended"]["scope"]):
                    raise Refused("lock-outside-scope")
                continue
            if not covers(scope, lock["scope"]) and not covers(lock["scope"], scope):
                raise Refused("start-elsewhere")
            if kind_name(lock["kind"]) not in NEEDS_START:
                raise Refused("takes-no-start")
            if lock["released_at"] is None:
                raise Refused("not-released")
            if len(lock["waves"]) >= 1024 and not covers(scope, lock["scope"]):
                raise Refused("too-many-waves")
        self.has_room(unknown)
        index, awaited = self.take("command", time_ms, envelope), 0
        for identity in ids:
            lock, used = self.locks.get(identity), self.used.get(identity)
            if lock is not None:
                if covers(scope, lock["scope"]):
                    self.end(identity, index)
                else:
                    lock["waves"][scope] = index
            elif used is not None:
                used["ended"]["start"] = index
            else:
                self.wait(identity, "start", command, index)
                awaited += 1
        return self.receipt(index, time_ms, digest_of(envelope), awaited=awaited)

    def end(self, identity, start):
        lock = self.locks.pop(identity)
        ended = {key: lock[key] for key in ("scope", "lost_from", "released_at")}
        self.used[identity]["ended"] = {**ended, "start": start}

    def place(self, kind, time_ms, envelope, scope, lock_kind, tag, lost_from=None):
        """M112, M118, M119."""
        identity = digest_of(envelope)
        index = self.take(kind, time_ms, envelope)
        names = self.waiting.pop(identity, [])
        releases = [n["index"] for n in names if n["action"] == "release" and covers(n["scope"], scope)
                    and (lost_from is None or n["lost_from"] == lost_from)]
        released_at = releases[0] if releases else None
        started, waves = None, {}
        for name in names:
            if name["action"] != "start" or kind_name(lock_kind) not in NEEDS_START:
                continue
            if released_at is not None and name["index"] > released_at:
                if covers(name["scope"], scope):
                    started = name["index"]
                elif covers(scope, name["scope"]):
                    waves[name["scope"]] = name["index"]
        self.locks[identity] = {"scope": scope, "kind": lock_kind, "tag": tag, "index": index, "time_ms": time_ms,
                                "released_at": released_at, "lost_from": lost_from, "waves": waves}
        if released_at is not None and (started is not None or kind_name(lock_kind) not in NEEDS_START):
            self.end(identity, started)
            raise Refused("used")
        return self.receipt(index, time_ms, identity)

    def grant(self, grant, time_ms, envelope):
        """M124, M125, M127."""
        digest = digest_of(envelope)
        if grant["seen"]["epoch"] != self.trust.epoch[1]:
            raise Refused("wrong-epoch")
        if grant["seen"]["size"] > self.size:
            raise Refused("seen-ahead")
        if grant["expires_at_ms"] <= time_ms:
            raise Refused("expired")
        names = self.waiting.get(digest, [])
        if any(n["action"] == "revoke" and covers(n["scope"], grant["scope"]) for n in names):
            raise Refused("void")
        mine = [g for g in self.grants if g["scope"] == grant["scope"] and time_ms < g["grant"]["expires_at_ms"]]
        if len(mine) >= 8:
            raise Refused("too-many-grants")
        index = self.take("command", time_ms, envelope)
        gone = lambda g: g["scope"] == grant["scope"] and time_ms >= g["grant"]["expires_at_ms"]
        self.grants = [g for g in self.grants if not gone(g)]
        self.grants.append({"scope": grant["scope"], "grant": grant, "digest": digest, "envelope": envelope,
                            "proven": self.trust.usable(proofs(envelope))})
        return self.receipt(index, time_ms, digest)

    def enroll(self, command, time_ms, envelope):
        """M180."""
        digest, ends = digest_of(envelope), command.get("expires_at_ms")
        if ends is not None and ends <= time_ms:
            raise Refused("expired")
        if any(n["action"] == "revoke" and covers(n["scope"], command["scope"]) for n in self.waiting.get(digest, [])):
            raise Refused("void")
        index = self.take("command", time_ms, envelope)
        self.enrolments.append({"digest": digest, **command})
        return self.receipt(index, time_ms, digest)

    def revoke(self, command, time_ms, envelope):
        """M126, M181."""
        named = command["grants"]
        held = self.grants + [e for e in self.enrolments if e["digest"] not in self.void]
        if any(g["digest"] in named and not covers(command["scope"], g["scope"]) for g in held):
            raise Refused("grant-outside-scope")
        unknown = [i for i in named if i not in self.used]
        self.has_room(unknown)
        index = self.take("command", time_ms, envelope)
        self.grants = [g for g in self.grants if g["digest"] not in named]
        for identity in named:
            if identity in unknown:
                self.wait(identity, "revoke", command, index)
            else:
                self.void.setdefault(identity, index)
        return self.receipt(index, time_ms, digest_of(envelope), awaited=len(unknown))

    # ------------------------------------------------------------------------------------------------ what it shows

    def holding(self, agent):
        """The locks that hold an agent."""
        held = {}
        for identity, lock in self.locks.items():
            started = lock["released_at"] is not None and any(covers(wave, agent) for wave in lock["waves"])
            if covers(lock["scope"], agent) and not started:
                held[identity] = lock
        return held

    def facts(self, agent):
        return [fact(k["kind"], k["released_at"] is not None, k["time_ms"]) for k in self.holding(agent).values()]

    def admit(self, token, agent, now_ms):
        """M182: refused where who shows this token gets no lease of the agent."""
        if token is None:
            if self.trust.authority["enrolment"]:
                raise Refused("not-enrolled")
            return
        live = [e for e in self.enrolments if e["token"] == token and e["digest"] not in self.void
                and now_ms < e.get("expires_at_ms", now_ms + 1)]
        if not live:
            raise Refused("not-enrolled")
        if not any(covers(e["scope"], agent) for e in live):
            raise Refused("enrolled-elsewhere")

    def verdict(self, agent, now_ms):
        expiries = [g["grant"]["expires_at_ms"] for g in self.grants if covers(g["scope"], agent)]
        return verdict(expiries, self.facts(agent), now_ms)

    def terms(self, agent, now_ms):
        grants = [g["grant"] for g in self.grants if covers(g["scope"], agent) and now_ms < g["grant"]["expires_at_ms"]]
        return terms(grants, self.facts(agent))

    def view(self, agent, now_ms):
        """M152."""
        held, shown = self.holding(agent), []
        for rank in RANKS:
            candidates = [(self.place_in(rank, lock), i) for i, lock in held.items() if self.place_in(rank, lock) is not None]
            if candidates and min(candidates)[1] not in shown:
                shown.append(min(candidates)[1])
        locks = []
        for identity in shown:
            k = held[identity]
            locks.append({"id": identity, "scope": k["scope"], "kind": k["kind"], "index": k["index"], "time_ms": k["time_ms"],
                          "released": k["released_at"] is not None, "tag": k["tag"]})
        grants = [g["envelope"] for scope in upward(agent) for g in self.grants
                  if g["scope"] == scope and now_ms < g["grant"]["expires_at_ms"]]
        return {"agent": agent, "locks": locks, "grants": grants}

    def place_in(self, rank, lock):
        name = kind_name(lock["kind"])
        if name == "throttle":
            return lock["kind"]["throttle"].get(rank)
        if name != rank:
            return None
        return fact(lock["kind"], False, lock["time_ms"])["drain_deadline_ms"] if rank == "drain" else lock["index"]
