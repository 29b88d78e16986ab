//! The documents that people may sign in one run of the model, and what they mean for one another.
//!
//! Bytes and signatures are abstracted: a document has a number, and it is *signed* once it is in the state's set of
//! signed documents. Releases and starts name the document of the lock, which stands for the SHA-256 of its bytes.

use std::ops::{BitAnd, BitOr};

// A new kind of lock is one more in `KINDS`.
pub use tagout_proto::lock::LockKind as Kind;
use tagout_proto::rule::{LockFact, Verdict};

/// A tick stands for any length; the rule is asked about an instant far from 0, so that deadlines may lie before it.
pub const NOW_MS: u64 = 1000;

/// A drain of two ticks.
pub const DRAIN: Kind = Kind::Drain { drain_ms: 2 };

/// Every kind of lock.
pub const KINDS: &[Kind] = &[Kind::Halt, DRAIN, Kind::Pause, Kind::Isolate, Kind::Restrict];

/// Three scopes in a line: each covers itself and those after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    Fleet,
    Parent,
    Child,
}

impl Place {
    pub fn covers(self, other: Place) -> bool {
        self <= other
    }
}

/// A document's number in the catalogue.
pub type Id = usize;
pub const DOCUMENTS_MAX: usize = 16;

#[derive(Clone, Copy, Debug)]
pub enum Document {
    /// Places a lock of `kind`.
    Lock {
        kind: Kind,
        on: Place,
    },
    Release {
        lock: Id,
    },
    Start {
        lock: Id,
        on: Place,
    },
    /// Consent, for that epoch only. It may last for some ticks from its signing, or for the whole run.
    Grant {
        on: Place,
        epoch: u8,
        life: Option<u8>,
    },
    /// Begins that epoch, and is itself the lock that halts the fleet.
    Restore {
        epoch: u8,
    },
}

/// A set of documents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Documents(u16);

impl Documents {
    pub fn has(self, id: Id) -> bool {
        self.0 & (1 << id) != 0
    }

    pub fn with(self, id: Id) -> Self {
        Self(self.0 | 1 << id)
    }

    pub fn without(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }

    pub fn any(self) -> bool {
        self.0 != 0
    }

    pub fn count(self) -> u8 {
        self.0.count_ones() as u8
    }

    pub fn iter(self) -> impl Iterator<Item = Id> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let next = (rest != 0).then(|| rest.trailing_zeros() as Id);
            rest &= rest.wrapping_sub(1);
            next
        })
    }
}

impl BitOr for Documents {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitAnd for Documents {
    type Output = Self;
    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl FromIterator<Id> for Documents {
    fn from_iter<I: IntoIterator<Item = Id>>(ids: I) -> Self {
        ids.into_iter().fold(Self::default(), Self::with)
    }
}

/// All documents of a run. A release or start comes after its lock.
#[derive(Clone, Debug, Default)]
pub struct Catalogue {
    documents: Vec<Document>,
    /// Those that are locks, a restore's included.
    pub locks: Documents,
    pub grants: Documents,
}

impl Catalogue {
    fn add(&mut self, document: Document) -> Id {
        let id = self.documents.len();
        assert!(id < DOCUMENTS_MAX);
        match document {
            Document::Lock { .. } | Document::Restore { .. } => self.locks = self.locks.with(id),
            Document::Grant { .. } => self.grants = self.grants.with(id),
            Document::Release { .. } | Document::Start { .. } => {}
        }
        self.documents.push(document);
        id
    }

    pub fn grant(mut self, on: Place, epoch: u8, life: Option<u8>) -> Self {
        self.add(Document::Grant { on, epoch, life });
        self
    }

    /// A lock that is never released.
    pub fn lock(mut self, kind: Kind, on: Place) -> Self {
        self.add(Document::Lock { kind, on });
        self
    }

    /// A lock, its release and, where it takes one, a start for each of `starts`.
    pub fn lock_and_end(mut self, kind: Kind, on: Place, starts: &[Place]) -> Self {
        let lock = self.add(Document::Lock { kind, on });
        self.end(lock, starts)
    }

    /// A restore whose lock is never released.
    pub fn restore(mut self, epoch: u8) -> Self {
        self.add(Document::Restore { epoch });
        self
    }

    /// A restore, and what ends its lock.
    pub fn restore_and_end(mut self, epoch: u8, starts: &[Place]) -> Self {
        let lock = self.add(Document::Restore { epoch });
        self.end(lock, starts)
    }

    fn end(mut self, lock: Id, starts: &[Place]) -> Self {
        self.add(Document::Release { lock });
        let takes_start = self.kind(lock).needs_start();
        for on in starts.iter().filter(|_| takes_start) {
            self.add(Document::Start { lock, on: *on });
        }
        self
    }

    pub fn get(&self, id: Id) -> Document {
        self.documents[id]
    }

    pub fn all(&self) -> Documents {
        (0..self.documents.len()).collect()
    }

    /// A grant's scope, epoch and life.
    pub fn grant_of(&self, id: Id) -> (Place, u8, Option<u8>) {
        match self.documents[id] {
            Document::Grant { on, epoch, life } => (on, epoch, life),
            other => panic!("{other:?} is no grant"),
        }
    }

    /// The document that begins `epoch`; the first epoch begins with the genesis.
    pub fn restore_of(&self, epoch: u8) -> Option<Id> {
        self.documents.iter().position(|d| matches!(d, Document::Restore { epoch: e } if *e == epoch))
    }

    pub fn kind(&self, lock: Id) -> Kind {
        match self.documents[lock] {
            Document::Lock { kind, .. } => kind,
            Document::Restore { .. } => Kind::Halt,
            other => panic!("{other:?} is no lock"),
        }
    }

    pub fn place(&self, lock: Id) -> Place {
        match self.documents[lock] {
            Document::Lock { on, .. } => on,
            Document::Restore { .. } => Place::Fleet,
            other => panic!("{other:?} is no lock"),
        }
    }

    pub fn locks_on(&self, agent: Place) -> impl Iterator<Item = Id> {
        self.locks.iter().filter(move |lock| self.place(*lock).covers(agent))
    }

    /// The epochs that there can be.
    pub fn epochs(&self) -> u8 {
        1 + self.documents.iter().filter(|d| matches!(d, Document::Restore { .. })).count() as u8
    }

    /// A fact about a lock for the rule. A drain has this many ticks left.
    pub fn fact(&self, lock: Id, released: bool, left: u8) -> LockFact {
        let entry_time_ms = NOW_MS + u64::from(left) - self.drain(lock);
        LockFact::of_entry(self.kind(lock), released, entry_time_ms)
    }

    /// The length of a drain, 0 for other kinds.
    pub fn drain(&self, lock: Id) -> u64 {
        match self.kind(lock) {
            Kind::Drain { drain_ms } => drain_ms,
            _ => 0,
        }
    }

    /// The most that the lock allows at any time, and what it allows in the end.
    pub fn first_and_last(&self, lock: Id) -> (Verdict, Verdict) {
        let drain = u8::try_from(self.drain(lock)).expect("drains are short");
        let verdict = |left| self.fact(lock, false, left).verdict(NOW_MS);
        (verdict(drain), verdict(0))
    }

    pub fn released(&self, lock: Id, by: Documents) -> bool {
        by.iter().any(|id| matches!(self.documents[id], Document::Release { lock: named } if named == lock))
    }

    pub fn started(&self, lock: Id, agent: Place, by: Documents) -> bool {
        let starts = |document| matches!(document, Document::Start { lock: named, on } if named == lock && on.covers(agent));
        by.iter().any(|id| starts(self.documents[id]))
    }

    /// Whether these documents end the lock for the agent: S1 and S2 in one line.
    pub fn ended(&self, lock: Id, agent: Place, by: Documents) -> bool {
        self.released(lock, by) && (!self.kind(lock).needs_start() || self.started(lock, agent, by))
    }

    /// What the documents are called in a counterexample.
    pub fn name(&self, id: Id) -> String {
        match self.documents[id] {
            Document::Lock { kind, on } => format!("{}#{id}({on:?})", kind.name()),
            Document::Release { lock } => format!("release({})", self.name(lock)),
            Document::Start { lock, on } => format!("start({} for {on:?})", self.name(lock)),
            Document::Grant { on, epoch, .. } => format!("grant#{id}({on:?}, epoch {epoch})"),
            Document::Restore { epoch } => format!("restore(epoch {epoch})"),
        }
    }
}

#[test]
fn places_cover_as_scopes_do() {
    use tagout_proto::scope::Scope;
    let scopes = [(Place::Fleet, "*"), (Place::Parent, "team"), (Place::Child, "team/agent")];
    for (a, name_a) in scopes {
        for (b, name_b) in scopes {
            let covers = Scope::parse(name_a).unwrap().covers(&Scope::parse(name_b).unwrap());
            assert_eq!(a.covers(b), covers, "{name_a} and {name_b}");
        }
    }
}
