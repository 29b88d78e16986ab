//! A small deployment with real keys and a real ledger, and a guard's beliefs about it.

use ed25519_dalek::{Signer as _, SigningKey};
use serde_json::{Value, json};
use tagout::Now;
use tagout::proto::command::{ActionKind, Deployment};
use tagout::proto::digest::Digest;
use tagout::proto::envelope::Envelope;
use tagout::proto::lease::{
    Clearing, Lease, LeaseRequest, LeaseResponse, LockAnswer, Unenrolled, leaf_hash_of,
};
use tagout::proto::ledger::{Ledger, LockStatus, Proposal, Receipt, Refusal, bulk_list, bulk_root};
use tagout::proto::lock::LockKind;
use tagout::proto::log::entry::{Entry, EntryKind};
use tagout::proto::log::tree;
use tagout::proto::note::NoteSigner;
use tagout::proto::restore::{Epoch, Restore};
use tagout::proto::rule::RULE_VERSION;
use tagout::proto::scope::Scope;
use tagout::proto::sshsig::{self, PublicKey};
use tagout::proto::strict::format_instant_ms;
use tagout::proto::view::{LockView, Tag, View};
use tagout::proto::wire::StopEvent;
use tagout::trusted::{Accepted, Asked, ChainRefused, Judgement, LeaseRefused, Trusted};

/// 2026-11-22T15:00:00Z.
pub(crate) const T0_MS: u64 = 1_795_359_600_000;
pub(crate) const DAY_MS: u64 = 86_400_000;
pub(crate) const NS_PER_MS: u64 = 1_000_000;
pub(crate) const AGENT: &str = "demo/agent_2";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Who {
    Alice = 1,
    Bob = 2,
    Carol = 3,
    /// May release and start below `demo/team`, alone.
    Dora = 4,
    /// Automation.
    Bot = 5,
    /// Their next keys.
    AliceAgain = 6,
    BobAgain = 7,
    CarolAgain = 8,
    RootA = 11,
    RootB = 12,
    /// No root signer of the genesis.
    RootC = 13,
    Stranger = 99,
}

pub(crate) const PEOPLE: [Who; 2] = [Who::Alice, Who::Bob];
pub(crate) const ROOTS: [Who; 2] = [Who::RootA, Who::RootB];

fn key(who: Who) -> SigningKey {
    SigningKey::from_bytes(&[who as u8; 32])
}

pub(crate) fn public_key(who: Who) -> PublicKey {
    PublicKey::Ed25519(key(who).verifying_key().to_bytes())
}

pub(crate) fn sign(document: &str, who: Who) -> String {
    let signature = key(who).sign(&sshsig::to_be_signed(sshsig::NAMESPACE, document.as_bytes()));
    let blob = sshsig::ed25519_signature_blob(&signature.to_bytes());
    sshsig::armor(&public_key(who).blob(), sshsig::NAMESPACE, &blob)
}

pub(crate) fn envelope(document: &Value, who: &[Who]) -> Envelope {
    let document = document.to_string();
    let signatures = who.iter().map(|who| sign(&document, *who)).collect();
    Envelope { document, signatures }
}

pub(crate) fn scope(text: &str) -> Scope {
    Scope::parse(text).unwrap()
}

pub(crate) fn node_signer(n: u8) -> NoteSigner {
    NoteSigner::new(&format!("demo/node-{n}"), &[20 + n; 32]).unwrap()
}

/// A public key as documents name it.
pub(crate) fn line(who: Who) -> String {
    public_key(who).to_openssh()
}

pub(crate) fn genesis(name: &str, ttl_ms: u64, lapse_grace_ms: u64) -> Envelope {
    let person = |name: &str, who| json!({"name": name, "kind": "person", "keys": [line(who)]});
    let tightenings = ["stop", "restrict", "throttle", "isolate", "revoke", "suspend"];
    let document = json!({
        "tagout": 1, "action": "authority", "deployment": name, "version": 1, "issued_at": "2026-11-22T15:00:00Z",
        "principals": [
            person("alice", Who::Alice), person("bob", Who::Bob), person("carol", Who::Carol), person("dora", Who::Dora),
            {"name": "bot", "kind": "automation", "keys": [line(Who::Bot)]},
        ],
        "roles": [
            {"name": "stoppers", "principals": ["alice", "bob", "bot"], "actions": tightenings, "scopes": ["*"], "threshold": 1},
            {"name": "consent", "principals": ["alice", "bob", "carol"], "actions": ["release", "start", "grant"],
             "scopes": ["*"], "threshold": 2},
            {"name": "team", "principals": ["dora"], "actions": ["release", "start", "grant"], "scopes": ["demo/team"],
             "threshold": 1},
        ],
        "root": {"threshold": 2, "signers": [
            {"name": "root-a", "key": line(Who::RootA)}, {"name": "root-b", "key": line(Who::RootB)},
        ]},
        "nodes": [
            {"id": 1, "address": "node-1.example:7471", "key": node_signer(1).verifier().to_string()},
            {"id": 2, "address": "node-2.example:7471", "key": node_signer(2).verifier().to_string()},
        ],
        "limits": {"ttl_ms": ttl_ms, "lapse_grace_ms": lapse_grace_ms},
    });
    envelope(&document, &ROOTS)
}

/// The service: a ledger and every command in it.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) ledger: Ledger,
    pub(crate) genesis: Envelope,
    pub(crate) deployment: Deployment,
    pub(crate) now_ms: u64,
    /// The newest version's document.
    authority: Value,
    entries: Vec<Envelope>,
    ids: u64,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(genesis("demo", 10_000, 20_000), T0_MS)
    }

    pub(crate) fn with(genesis: Envelope, now_ms: u64) -> Self {
        let pinned = genesis.digest();
        let deployment = Deployment { name: "demo".into(), genesis: pinned };
        let (ledger, entries) = (Ledger::new(pinned), Vec::new());
        let authority = serde_json::from_str(&genesis.document).unwrap();
        let genesis_too = genesis.clone();
        let mut world = Self { ledger, genesis: genesis_too, deployment, now_ms, authority, entries, ids: 0 };
        world.send(&genesis);
        world
    }

    /// A world in which everything under `demo` has consent for a day.
    pub(crate) fn running() -> Self {
        let mut world = Self::new();
        world.grant("demo", DAY_MS);
        world
    }

    pub(crate) fn document(&mut self, action: &str, scope: &str, more: Value) -> Value {
        self.ids += 1;
        let mut document = json!({
            "tagout": 1, "deployment": self.deployment.to_string(), "action": action, "id": format!("c-{}", self.ids),
            "issued_at": "2026-11-22T15:00:00Z", "scope": scope, "reason": "test",
        });
        document.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        document
    }

    pub(crate) fn grant_document(&mut self, scope: &str, for_ms: u64) -> Value {
        let authority = self.ledger.authority().unwrap().version;
        let seen =
            json!({"epoch": self.ledger.epoch().id, "size": self.ledger.size(), "authority": authority});
        let expires_at = format_instant_ms(self.now_ms + for_ms);
        self.document("grant", scope, json!({"expires_at": expires_at, "seen": seen}))
    }

    /// The document that places a lock of this kind.
    pub(crate) fn stop_document(&mut self, scope: &str, kind: LockKind) -> Value {
        let more = match kind {
            LockKind::Drain { drain_ms } => json!({"mode": "drain", "drain_ms": drain_ms}),
            LockKind::Halt | LockKind::Pause => json!({"mode": kind.name()}),
            LockKind::Isolate | LockKind::Restrict => json!({}),
            LockKind::Throttle(limits) => json!({"limits": limits}),
        };
        self.document(kind.action().name(), scope, more)
    }

    pub(crate) fn lifting(&mut self, action: &str, scope: &str, lock: Digest, who: &[Who]) -> Envelope {
        let document = self.document(action, scope, json!({"locks": [lock]}));
        envelope(&document, who)
    }

    pub(crate) fn apply(&mut self, kind: EntryKind, envelope: &Envelope) -> Result<Receipt, Refusal> {
        let proposal = Proposal { kind, time_ms: self.now_ms, envelope: envelope.clone() };
        let applied = self.ledger.apply(&proposal);
        if let Some(entry) = applied.entry {
            self.entries.push(Entry::decode(&entry).unwrap().envelope);
        }
        applied.answer
    }

    /// Commits a command and gives its index.
    pub(crate) fn send(&mut self, envelope: &Envelope) -> u64 {
        self.apply(EntryKind::Command, envelope).expect("the service takes it").index
    }

    /// Commits something that takes away, signed by the automation, as it is pushed.
    pub(crate) fn take_away(&mut self, document: &Value) -> StopEvent {
        let stop = envelope(document, &[Who::Bot]);
        let index = self.send(&stop);
        StopEvent { stop, index: Some(index), time_ms: self.now_ms, confirm_within_ms: 0 }
    }

    pub(crate) fn revoke_document(&mut self, scope: &str, grants: &[Digest]) -> Value {
        self.document("revoke", scope, json!({"grants": grants}))
    }

    pub(crate) fn suspend_document(&mut self, keys: &[Who]) -> Value {
        let keys: Vec<_> = keys.iter().map(|who| line(*who)).collect();
        let mut document = self.document("suspend", "*", json!({"keys": keys}));
        document.as_object_mut().unwrap().remove("scope");
        document
    }

    /// The document of the next authority, as the newest one but for `change`.
    pub(crate) fn next_authority(&self, change: impl FnOnce(&mut Value)) -> Value {
        let authority = self.ledger.authority().unwrap();
        let mut document = self.authority.clone();
        document["deployment"] = self.deployment.to_string().into();
        document["version"] = (authority.version + 1).into();
        document["previous"] = json!(authority.digest);
        document["disables"] = 1_000_000.into();
        change(&mut document);
        document
    }

    /// Puts the next authority in force.
    pub(crate) fn succeed(&mut self, change: impl FnOnce(&mut Value)) -> Envelope {
        let document = self.next_authority(change);
        let next = envelope(&document, &ROOTS);
        self.send(&next);
        self.authority = document;
        next
    }

    /// The restore that begins an epoch here, as the root signers sign it.
    pub(crate) fn restore_document(&self, epoch: Digest) -> Value {
        let authority = self.ledger.authority().unwrap();
        let restore = Restore {
            deployment: self.deployment.clone(),
            epoch: Epoch { number: self.ledger.epoch().number + 1, id: epoch },
            issued_at_ms: self.now_ms,
            authority_version: authority.version,
            authority: authority.digest,
            checkpoint_size: self.ledger.size(),
            checkpoint_root: self.ledger.frontier().root(),
            lost_from: self.ledger.size(),
            reason: "test".into(),
        };
        serde_json::from_str(&restore.to_document()).unwrap()
    }

    pub(crate) fn restore(&mut self, epoch: Digest) -> StopEvent {
        let document = self.restore_document(epoch);
        let stop = envelope(&document, &ROOTS);
        let index = self.apply(EntryKind::Restore, &stop).unwrap().index;
        StopEvent { stop, index: Some(index), time_ms: self.now_ms, confirm_within_ms: 0 }
    }

    /// What `GET /v1/authority` answers.
    pub(crate) fn chain(&self) -> Vec<Envelope> {
        self.ledger.trust_entries().iter().map(|index| self.entries[*index as usize].clone()).collect()
    }

    /// A release or start of every lock that it can act on, named by their root.
    pub(crate) fn bulk_document(&mut self, action: ActionKind, on: &str) -> Value {
        let records = self.ledger.locks_touching(&scope(on));
        let ids = bulk_list(action, &scope(on), self.ledger.size(), None, &records);
        let (count, root) = (ids.len(), bulk_root(&ids));
        let locks = json!({"count": count, "root": root, "before": self.ledger.size()});
        self.document(action.name(), on, json!({"locks": locks}))
    }

    pub(crate) fn grant(&mut self, scope: &str, for_ms: u64) -> Envelope {
        let document = self.grant_document(scope, for_ms);
        let envelope = envelope(&document, &PEOPLE);
        self.send(&envelope);
        envelope
    }

    /// Consent with terms.
    pub(crate) fn grant_with(&mut self, scope: &str, for_ms: u64, terms: Value) -> Envelope {
        let mut document = self.grant_document(scope, for_ms);
        document.as_object_mut().unwrap().extend(terms.as_object().unwrap().clone());
        let envelope = envelope(&document, &PEOPLE);
        self.send(&envelope);
        envelope
    }

    pub(crate) fn stop(&mut self, scope: &str, mode: LockKind) -> StopEvent {
        let document = self.stop_document(scope, mode);
        self.take_away(&document)
    }

    pub(crate) fn release(&mut self, scope: &str, lock: Digest) -> Envelope {
        let envelope = self.lifting("release", scope, lock, &PEOPLE);
        self.send(&envelope);
        envelope
    }

    pub(crate) fn start(&mut self, scope: &str, lock: Digest) -> Envelope {
        let envelope = self.lifting("start", scope, lock, &PEOPLE);
        self.send(&envelope);
        envelope
    }

    /// Commits what a guard brings and no log had.
    pub(crate) fn take_over(&mut self, request: &LeaseRequest) {
        for brought in request.known.iter().filter_map(|known| known.document.as_ref()) {
            if self.ledger.lock_status(&brought.digest(), &scope(AGENT)) == LockStatus::Unknown {
                self.send(brought);
            }
        }
    }

    /// What an honest node answers.
    pub(crate) fn reply(&self, request: &LeaseRequest) -> Reply {
        let views = request.agents.iter().map(|a| self.ledger.view(&a.scope, self.now_ms)).collect();
        let entry = |index: u64| self.entries[index as usize].clone();
        let clearing =
            |index: u64, id| Clearing { envelope: entry(index), listed: self.ledger.listed(index, id) };
        let answers =
            request.known.iter().map(|known| match self.ledger.lock_status(&known.id, &known.agent) {
                LockStatus::Held => LockAnswer::Held { why: "it is in force".into() },
                LockStatus::Cleared { placed, release, start } => LockAnswer::Cleared {
                    placed: entry(placed),
                    release: clearing(release, &known.id),
                    start: start.map(|start| clearing(start, &known.id)),
                },
                LockStatus::Unknown => LockAnswer::SendDocument,
            });
        let epoch = self.ledger.epoch();
        let authority = self.ledger.authority().unwrap();
        Reply {
            nonce: request.nonce,
            views,
            answers: answers.collect(),
            unenrolled: Vec::new(),
            lease: Lease {
                deployment: self.deployment.clone(),
                epoch_number: epoch.number,
                epoch: epoch.id,
                authority_version: authority.version,
                authority: authority.digest,
                log_size: self.ledger.size(),
                log_root: self.ledger.frontier().root(),
                time_ms: self.now_ms,
                ttl_ms: authority.limits.ttl_ms,
                lapse_grace_ms: authority.limits.lapse_grace_ms,
                rule_version: RULE_VERSION,
                batch_size: 0,
                batch_root: Digest::default(),
            },
            signer: node_signer(1),
        }
    }
}

/// A lease before it is signed: what a lying node may change.
pub(crate) struct Reply {
    pub(crate) nonce: Digest,
    pub(crate) views: Vec<View>,
    pub(crate) answers: Vec<LockAnswer>,
    pub(crate) unenrolled: Vec<Unenrolled>,
    pub(crate) lease: Lease,
    pub(crate) signer: NoteSigner,
}

impl Reply {
    /// Binds and signs it, second in a batch of three.
    pub(crate) fn sign(mut self, request: &LeaseRequest) -> LeaseResponse {
        let agents = request.agents.iter().map(|a| &a.scope);
        let digests: Vec<_> = self.views.iter().map(View::digest).collect();
        let answers: Vec<_> = request.known.iter().map(|k| k.id).zip(self.answers.clone()).collect();
        let leaf = leaf_hash_of(&self.nonce, agents.zip(digests.iter().copied()), &answers);
        let leaves = [Digest([7; 32]), leaf, Digest([9; 32])];
        self.lease.batch_size = 3;
        self.lease.batch_root = tree::root(&leaves);
        let unchanged = |(n, view): (usize, View)| {
            let same = request.agents.get(n).is_some_and(|a| a.view == Some(view.digest()));
            (!same).then_some(view)
        };
        LeaseResponse {
            lease: self.lease.sign(&self.signer),
            leaf_index: 1,
            path: tree::prove_all(&leaves)[1].clone(),
            views: self.views.into_iter().enumerate().map(unchanged).collect(),
            answers: self.answers,
            unenrolled: self.unenrolled,
            instances: Vec::new(),
        }
    }
}

/// One guard's beliefs, with a clock of the test's own.
pub(crate) struct Believer {
    pub(crate) trusted: Trusted,
    pub(crate) now: Now,
    pub(crate) agents: Vec<Scope>,
    nonces: u8,
}

impl Believer {
    pub(crate) fn new(world: &World) -> Self {
        Self::of(world, &[AGENT])
    }

    pub(crate) fn of(world: &World, agents: &[&str]) -> Self {
        let mut trusted = Trusted::new(&world.genesis, world.genesis.digest()).unwrap();
        let agents: Vec<_> = agents.iter().map(|agent| scope(agent)).collect();
        agents.iter().for_each(|agent| trusted.add(agent.clone()));
        let now = Now { boot_ns: 1_000_000 * NS_PER_MS, wall_ms: T0_MS };
        Self { trusted, now, agents, nonces: 0 }
    }

    /// Lets time pass on both clocks.
    pub(crate) fn pass(&mut self, ms: u64) {
        self.now.boot_ns += ms * NS_PER_MS;
        self.now.wall_ms += ms;
    }

    pub(crate) fn ask(&mut self) -> Asked {
        self.nonces += 1;
        self.trusted.ask(Digest([self.nonces; 32]), self.now.boot_ns, "test".into(), &self.agents)
    }

    /// Asks, and takes what `lie` makes of the honest answer.
    pub(crate) fn renew_with(
        &mut self,
        world: &World,
        lie: impl FnOnce(&mut Reply),
    ) -> Result<Accepted, LeaseRefused> {
        let asked = self.ask();
        let mut reply = world.reply(&asked.request);
        lie(&mut reply);
        self.trusted.accept_lease(&asked, reply.sign(&asked.request), self.now)
    }

    pub(crate) fn renew(&mut self, world: &World) -> Accepted {
        self.renew_with(world, |_| {}).unwrap()
    }

    /// Renews as the client does: learns the trust chain where the lease asks for it, and asks again while it helps.
    pub(crate) fn settle(&mut self, world: &World) -> Result<(), LeaseRefused> {
        for _ in 0..8 {
            match self.renew_with(world, |_| {}) {
                Ok(accepted) if !accepted.ask_again => return Ok(()),
                Ok(_) => {}
                Err(refused) if refused.asks_for_proof() => drop(self.learn(world)),
                Err(refused) => return Err(refused),
            }
        }
        Ok(())
    }

    pub(crate) fn learn(&mut self, world: &World) -> Result<bool, ChainRefused> {
        self.trusted.learn(&world.chain(), self.now)
    }

    pub(crate) fn push(&mut self, event: &StopEvent) -> Vec<Scope> {
        self.trusted.accept_push(event, self.now).unwrap()
    }

    pub(crate) fn judge(&self) -> Judgement {
        self.trusted.judge(&scope(AGENT), self.now)
    }

    pub(crate) fn allowed(&self) -> bool {
        let judgement = self.judge();
        assert_eq!(judgement.refusal.is_none(), judgement.allow_until_ns > self.now.boot_ns);
        judgement.refusal.is_none()
    }
}

/// A lock in a view, as a node may show it without proof.
pub(crate) fn lock_view(id: Digest, on: &str, kind: LockKind) -> LockView {
    let tag = Tag { reason: "shown".into(), by: vec!["alice".into()], case: None };
    LockView { id, scope: scope(on), kind, index: 1, time_ms: T0_MS, released: false, tag }
}

/// A document that names its locks one by one.
pub(crate) fn clearing(envelope: &Envelope) -> Clearing {
    Clearing { envelope: envelope.clone(), listed: None }
}
