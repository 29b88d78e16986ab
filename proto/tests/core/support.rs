//! A small deployment with real keys: three people, an automation, offline root signers, a node, and a ledger.

use std::sync::LazyLock;

use ed25519_dalek::{Signer as _, SigningKey};
use serde_json::{Value, json};
use tagout_proto::authority::Authority;
use tagout_proto::command::{Action, Command, Grant};
use tagout_proto::digest::Digest;
use tagout_proto::envelope::Envelope;
use tagout_proto::ledger::{Applied, Ledger, Proposal, Receipt, Refusal};
use tagout_proto::lock::Trip;
use tagout_proto::log::entry::{Entry, EntryKind};
use tagout_proto::note::NoteSigner;
use tagout_proto::restore::{Epoch, Restore};
use tagout_proto::rule::{self, Terms, Verdict};
use tagout_proto::scope::Scope;
use tagout_proto::sshsig::{self, PublicKey};
use tagout_proto::strict::format_instant_ms;
use tagout_proto::trust::{Learned, Trust, place_grant};
use tagout_proto::view::View;

/// 2026-11-22T15:00:00Z.
pub(crate) const T0: u64 = 1_795_359_600_000;

pub(crate) const ALICE: u8 = 1;
pub(crate) const BOB: u8 = 2;
pub(crate) const CAROL: u8 = 3;
/// Alice's second key.
pub(crate) const ALICE_TOO: u8 = 4;
/// May tighten and loosen below `team` alone.
pub(crate) const DORA: u8 = 5;
/// Automation.
pub(crate) const BOT: u8 = 6;
pub(crate) const ROOT_1: u8 = 11;
pub(crate) const ROOT_2: u8 = 12;
pub(crate) const ROOT_3: u8 = 13;
pub(crate) const STRANGER: u8 = 99;

/// How many cases a property is tried with: twenty times as many in a long run.
pub(crate) fn rounds(cases: u32) -> u32 {
    if std::env::var_os("TAGOUT_LONG").is_some() { 20 * cases } else { cases }
}

pub(crate) fn signing_key(who: u8) -> SigningKey {
    SigningKey::from_bytes(&[who; 32])
}

pub(crate) fn public_key(who: u8) -> PublicKey {
    PublicKey::Ed25519(signing_key(who).verifying_key().to_bytes())
}

pub(crate) fn sign(who: u8, document: &str) -> String {
    sign_in(sshsig::NAMESPACE, who, document)
}

pub(crate) fn sign_in(namespace: &str, who: u8, document: &str) -> String {
    let key = signing_key(who);
    let signature = key.sign(&sshsig::to_be_signed(namespace, document.as_bytes()));
    sshsig::armor(&public_key(who).blob(), namespace, &sshsig::ed25519_signature_blob(&signature.to_bytes()))
}

pub(crate) fn envelope(document: impl Into<String>, who: &[u8]) -> Envelope {
    let document = document.into();
    let signatures = who.iter().map(|w| sign(*w, &document)).collect();
    Envelope { document, signatures }
}

pub(crate) fn node_signer() -> NoteSigner {
    NoteSigner::new("demo/node-1", &[21; 32]).unwrap()
}

pub(crate) fn scope(text: &str) -> Scope {
    Scope::parse(text).unwrap()
}

pub(crate) fn genesis_json() -> Value {
    let key = |who| public_key(who).to_openssh();
    let person = |name: &str, keys: &[u8]| json!({"name": name, "kind": "person", "keys": keys.iter().map(|k| key(*k)).collect::<Vec<_>>()});
    json!({
        "tagout": 1, "action": "authority", "deployment": "demo", "version": 1, "issued_at": "2026-11-22T15:00:00Z",
        "principals": [
            person("alice", &[ALICE, ALICE_TOO]), person("bob", &[BOB]), person("carol", &[CAROL]), person("dora", &[DORA]),
            {"name": "bot", "kind": "automation", "keys": [key(BOT)]},
        ],
        "roles": [
            {"name": "stoppers", "principals": ["alice", "bob", "bot"], "actions": ["stop"], "scopes": ["*"], "threshold": 1},
            {"name": "wardens", "principals": ["alice", "bob", "bot"], "actions": ["restrict", "throttle", "isolate", "revoke", "suspend"],
             "scopes": ["*"], "threshold": 1},
            {"name": "consent", "principals": ["alice", "bob", "carol"], "actions": ["release", "start", "grant"],
             "scopes": ["*"], "threshold": 2},
            {"name": "team", "principals": ["dora"], "actions": ["stop", "release", "start", "grant"], "scopes": ["team"],
             "threshold": 1},
        ],
        "root": {"threshold": 2, "signers": [
            {"name": "root-1", "key": key(ROOT_1)}, {"name": "root-2", "key": key(ROOT_2)}, {"name": "root-3", "key": key(ROOT_3)},
        ]},
        "nodes": [{"id": 1, "key": node_signer().verifier().to_string()}],
        "limits": {"ttl_ms": 10000, "lapse_grace_ms": 20000},
    })
}

/// All that guards and people see of who may run.
pub(crate) fn shown(world: &World) -> Vec<u8> {
    let agents = ["*", "a", "a/x", "b"].map(|agent| {
        let view = world.ledger.view(&scope(agent), world.now_ms);
        (world.verdict(agent), view.digest(), world.terms(agent))
    });
    let (locks, grants) =
        (world.ledger.locks_touching(&scope("*")), world.ledger.grants(world.now_ms).len() as u64);
    serde_json::to_vec(&json!([agents, locks, grants, world.ledger.verdict(&scope("a"), u64::MAX)])).unwrap()
}

/// A refusal for what a guard cannot know: the state of the log.
fn is_of_the_log_alone(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::DisablesMore { .. } | Refusal::RestoreElsewhere(_))
}

pub(crate) fn genesis() -> Envelope {
    static GENESIS: LazyLock<Envelope> =
        LazyLock::new(|| envelope(genesis_json().to_string(), &[ROOT_1, ROOT_2]));
    GENESIS.clone()
}

pub(crate) fn deployment() -> String {
    format!("demo:{}", genesis().digest())
}

/// A ledger and everything that was ever proposed to it.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) ledger: Ledger,
    /// A guard that follows the documents of the trust chain (S5).
    pub(crate) guard: Trust,
    pub(crate) now_ms: u64,
    pub(crate) entries: Vec<Vec<u8>>,
    /// The document of the authority in force.
    pub(crate) authority: String,
    deployment: String,
    next_id: u64,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::of(genesis())
    }

    pub(crate) fn of(genesis: Envelope) -> Self {
        let mut world = Self {
            ledger: Ledger::new(genesis.digest()),
            guard: Trust::begin(&genesis, genesis.digest()).unwrap(),
            now_ms: T0,
            entries: Vec::new(),
            authority: genesis.document.clone(),
            deployment: format!("demo:{}", genesis.digest()),
            next_id: 0,
        };
        world.send(genesis).unwrap();
        world
    }

    /// A world in which `*` may run for a year.
    pub(crate) fn running() -> Self {
        let mut world = Self::new();
        world.grant("*", T0 + 365 * 86_400_000).unwrap();
        world
    }

    pub(crate) fn document(&mut self, action: &str, scope: &str, more: Value) -> String {
        self.next_id += 1;
        let mut document = json!({
            "tagout": 1, "deployment": self.deployment, "action": action, "id": format!("c-{}", self.next_id),
            "issued_at": "2026-11-22T15:00:00Z", "scope": scope, "reason": "test",
        });
        document.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        document.to_string()
    }

    /// Makes, signs and sends a command.
    pub(crate) fn command(
        &mut self,
        action: &str,
        scope: &str,
        more: Value,
        who: &[u8],
    ) -> Result<Receipt, Refusal> {
        let document = self.document(action, scope, more);
        self.send(envelope(document, who))
    }

    /// A lock of a kind that is no stop's.
    pub(crate) fn place(&mut self, action: &str, scope: &str, more: Value) -> Digest {
        self.command(action, scope, more, &[BOT]).unwrap().digest
    }

    pub(crate) fn suspend_document(&mut self, keys: &[PublicKey], who: &[u8]) -> Envelope {
        let keys: Vec<_> = keys.iter().map(PublicKey::to_openssh).collect();
        let mut document: Value =
            serde_json::from_str(&self.document("suspend", "*", json!({"keys": keys}))).unwrap();
        document.as_object_mut().unwrap().remove("scope");
        envelope(document.to_string(), who)
    }

    pub(crate) fn suspend(&mut self, keys: &[PublicKey], who: &[u8]) -> Result<Receipt, Refusal> {
        let envelope = self.suspend_document(keys, who);
        self.send(envelope)
    }

    pub(crate) fn trip_document(&mut self, on: &str) -> Envelope {
        self.next_id += 1;
        let trip = Trip {
            deployment: self.deployment.parse().unwrap(),
            scope: scope(on),
            issued_at_ms: T0,
            instance: "pod-7".into(),
            reason: "it talks to itself".into(),
        };
        let nonce = Digest::of(&self.next_id.to_be_bytes());
        Envelope { document: trip.to_document(&nonce), signatures: vec![] }
    }

    /// What follows the authority in force, with one change.
    pub(crate) fn successor(&self, change: impl FnOnce(&mut Value)) -> String {
        let mut next: Value = serde_json::from_str(&self.authority).unwrap();
        next["version"] = (next["version"].as_u64().unwrap() + 1).into();
        next["deployment"] = self.deployment.clone().into();
        next["previous"] = Digest::of(self.authority.as_bytes()).to_string().into();
        next["disables"] = 1000.into();
        change(&mut next);
        next.to_string()
    }

    /// Puts the next authority in force.
    pub(crate) fn succeed(&mut self, change: impl FnOnce(&mut Value)) -> Result<Receipt, Refusal> {
        let next = self.successor(change);
        self.send(envelope(next, &[ROOT_1, ROOT_2]))
    }

    /// A restore that fits this log, in the document's own terms.
    pub(crate) fn restore_of(&self) -> Restore {
        let authority = self.ledger.authority().unwrap();
        let number = self.ledger.epoch().number + 1;
        Restore {
            deployment: self.deployment.parse().unwrap(),
            epoch: Epoch { number, id: Digest::of(&number.to_be_bytes()) },
            issued_at_ms: T0,
            authority_version: authority.version,
            authority: authority.digest,
            checkpoint_size: self.ledger.size() + 5,
            checkpoint_root: Digest([7; 32]),
            lost_from: self.ledger.size(),
            reason: "the disks of two nodes burned".into(),
        }
    }

    pub(crate) fn restore_with(
        &mut self,
        change: impl FnOnce(&mut Restore),
        who: &[u8],
    ) -> Result<Receipt, Refusal> {
        let mut restore = self.restore_of();
        change(&mut restore);
        self.propose(EntryKind::Restore, envelope(restore.to_document(), who)).answer
    }

    pub(crate) fn stop_document(&mut self, scope: &str, mode: &str) -> Envelope {
        let more = match mode {
            "drain" => json!({"mode": "drain", "drain_ms": 60_000}),
            mode => json!({"mode": mode}),
        };
        let document = self.document("stop", scope, more);
        envelope(document, &[ALICE])
    }

    pub(crate) fn release_document(&mut self, scope: &str, locks: &[Digest]) -> Envelope {
        let document = self.document("release", scope, json!({"locks": locks}));
        envelope(document, &[ALICE, BOB])
    }

    pub(crate) fn start_document(&mut self, scope: &str, locks: &[Digest]) -> Envelope {
        let document = self.document("start", scope, json!({"locks": locks}));
        envelope(document, &[ALICE, BOB])
    }

    pub(crate) fn grant_document(&mut self, scope: &str, expires_at_ms: u64) -> Envelope {
        let version = self.ledger.authority().unwrap().version;
        let seen = json!({"epoch": self.ledger.epoch().id, "size": self.ledger.size(), "authority": version});
        let more = json!({"expires_at": format_instant_ms(expires_at_ms), "seen": seen});
        let document = self.document("grant", scope, more);
        envelope(document, &[BOB, CAROL])
    }

    pub(crate) fn propose(&mut self, kind: EntryKind, envelope: Envelope) -> Applied {
        let proposal = Proposal { kind, time_ms: self.now_ms, envelope };
        let before = postcard::to_stdvec(&self.ledger).unwrap();
        let checked = self.ledger.check(&proposal.envelope, proposal.time_ms);
        let checked_proposal = self.ledger.check_proposal(&proposal.envelope, proposal.time_ms);
        let checked_drill = self.ledger.check_drill(&proposal.envelope);
        let applied = self.ledger.apply(&proposal);
        self.follow(&proposal, &applied);
        if let Some(entry) = &applied.entry {
            self.entries.push(entry.clone());
        } else {
            // S8: what is not in the log has changed nothing.
            assert_eq!(before, postcard::to_stdvec(&self.ledger).unwrap());
            assert_eq!(applied.effect, None);
        }
        for (of, checked) in [(EntryKind::Proposal, checked_proposal), (EntryKind::Drill, checked_drill)] {
            if kind == of {
                let early = checked.map(|receipt| receipt.is_some());
                assert_eq!(early, applied.answer.clone().map(|receipt| receipt.repeated));
            }
        }
        // What refuses early decides as apply does.
        if kind == EntryKind::Command
            && self.ledger.used_at(&self.ledger.pinned()) != Some(self.ledger.size() - 1)
        {
            let early = checked.map(|receipt| receipt.is_some());
            match applied.answer.clone() {
                // Only a stop that meets its own release is judged and answered apart: it is in the log, and it is over.
                Err(Refusal::Used { .. }) if applied.entry.is_some() => assert_eq!(early, Ok(false)),
                answer => assert_eq!(early, answer.map(|receipt| receipt.repeated)),
            }
        }
        applied
    }

    /// S5: from the same documents, a guard comes to the same trust as the ledger, and refuses what that refuses.
    fn follow(&mut self, proposal: &Proposal, applied: &Applied) {
        let is_authority = Authority::parse(proposal.envelope.document.as_bytes()).is_ok();
        if self.entries.is_empty()
            || !is_authority
                && proposal.kind != EntryKind::Restore
                && !proposal.envelope.document.contains(r#""action":"suspend""#)
        {
            return;
        }
        match &applied.answer {
            Ok(_) => {
                let learned = self.guard.learn(&proposal.envelope);
                assert!(learned.is_ok(), "{learned:?}");
            }
            Err(refusal) => {
                let mut guard = self.guard.clone();
                let learned = guard.learn(&proposal.envelope);
                let nothing = learned.is_err() || learned == Ok(Learned::Nothing);
                assert!(nothing || is_of_the_log_alone(refusal), "{refusal}: {learned:?}");
            }
        }
        let ours = self.ledger.trust().unwrap();
        assert_eq!(postcard::to_stdvec(&self.guard).unwrap(), postcard::to_stdvec(ours).unwrap());
        if is_authority && applied.entry.is_some() {
            self.authority = proposal.envelope.document.clone();
        }
    }

    pub(crate) fn send(&mut self, envelope: Envelope) -> Result<Receipt, Refusal> {
        self.propose(EntryKind::Command, envelope).answer
    }

    pub(crate) fn stop(&mut self, scope: &str, mode: &str) -> Digest {
        let envelope = self.stop_document(scope, mode);
        self.send(envelope).unwrap().digest
    }

    pub(crate) fn release(&mut self, scope: &str, locks: &[Digest]) -> Result<Receipt, Refusal> {
        let envelope = self.release_document(scope, locks);
        self.send(envelope)
    }

    pub(crate) fn start(&mut self, scope: &str, locks: &[Digest]) -> Result<Receipt, Refusal> {
        let envelope = self.start_document(scope, locks);
        self.send(envelope)
    }

    pub(crate) fn grant(&mut self, scope: &str, expires_at_ms: u64) -> Result<Receipt, Refusal> {
        let envelope = self.grant_document(scope, expires_at_ms);
        self.send(envelope)
    }

    pub(crate) fn verdict(&self, agent: &str) -> Verdict {
        let verdict = self.ledger.verdict(&scope(agent), self.now_ms);
        assert_eq!(self.verdict_by_view(agent, self.now_ms), verdict, "the view of {agent} hides something");
        self.guard_takes_every_grant_of(agent);
        verdict
    }

    /// The verdict that a guard reaches from its view, made now and judged at `at_ms`.
    pub(crate) fn verdict_by_view(&self, agent: &str, at_ms: u64) -> Verdict {
        let (view, grants) = self.view_of(agent);
        let expiries = grants.iter().map(|grant| grant.expires_at_ms);
        rule::verdict(expiries, view.locks.iter().map(|lock| lock.fact()), at_ms)
    }

    pub(crate) fn terms(&self, agent: &str) -> Terms {
        let terms = self.ledger.terms(&scope(agent), self.now_ms);
        let (view, grants) = self.view_of(agent);
        let by_view = rule::terms(grants.iter().map(|g| &g.terms), view.locks.iter().map(|lock| lock.fact()));
        assert_eq!(by_view, terms, "the view of {agent} hides something");
        terms
    }

    fn view_of(&self, agent: &str) -> (View, Vec<Grant>) {
        let view = self.ledger.view(&scope(agent), self.now_ms);
        let grant = |grant: &Envelope| match Command::parse(grant.document.as_bytes()).unwrap().action {
            Action::Grant(grant) => grant,
            other => panic!("{other:?}"),
        };
        let grants = view.grants.iter().map(grant).collect();
        (view, grants)
    }

    /// S5: a guard takes nobody's word for a grant, and what the ledger shows it stands up to that.
    pub(crate) fn guard_takes_every_grant_of(&self, agent: &str) {
        for grant in self.ledger.view(&scope(agent), self.now_ms).grants {
            let (grant, _) = self.guard.judge_grant(&grant).unwrap();
            place_grant(&grant, &scope(agent), self.guard.epoch().id, self.ledger.size()).unwrap();
        }
    }

    /// A node that starts again from its log alone.
    pub(crate) fn replayed(&self) -> Ledger {
        let mut ledger = Ledger::new(self.ledger.pinned());
        for bytes in &self.entries {
            let entry = Entry::decode(bytes).unwrap();
            let proposal =
                Proposal { kind: entry.kind, time_ms: entry.time_ms, envelope: entry.envelope.clone() };
            let applied = ledger.apply(&proposal);
            assert_eq!(
                applied.entry.as_ref(),
                Some(bytes),
                "replay of entry {} gives other bytes",
                entry.index
            );
        }
        ledger
    }

    /// A node that starts again from its snapshot.
    pub(crate) fn restart(&mut self) {
        self.ledger = postcard::from_bytes(&postcard::to_stdvec(&self.ledger).unwrap()).unwrap();
    }
}
