//! Drills: evidence of what a stop reached, by somebody who may stop its scope. The ledger lets none in that says otherwise
//! than it does itself, and one of each stop at most.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Change, Judged, Ledger, Receipt, Refusal};
use crate::command::ActionKind;
use crate::digest::Digest;
use crate::drill::{Drill, Place, shown};
use crate::envelope::Envelope;
use crate::limits::DRILLED_SCOPES_MAX;
use crate::scope::Scope;
use crate::sshsig::DRILL_NAMESPACE;

/// What the ledger keeps of a stop's outcome: what a drill must say of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Achieved {
    pub(super) index: u64,
    pub(super) figures: Figures,
    /// The entry of the stop's drill.
    pub(super) drill: Option<u64>,
}

/// None of them makes an outcome malformed: it is what its node wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Figures {
    #[serde(default)]
    confirmed: Option<u64>,
    #[serde(default)]
    bounded: Option<u64>,
    #[serde(default)]
    slowest_ms: Option<u64>,
}

impl Figures {
    pub(super) fn of(outcome: &str) -> Self {
        serde_json::from_str(outcome).unwrap_or_default()
    }
}

/// The newest drill of one scope, for people and alerts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LatestDrill {
    pub scope: Scope,
    /// The stop's lock.
    pub lock: Digest,
    /// The entry with the evidence, and its time.
    pub index: u64,
    pub time_ms: u64,
    pub by: Vec<String>,
    pub confirmed: u64,
    pub bounded: u64,
    pub slowest_ms: Option<u64>,
    /// It ran again when that was signed.
    pub resumed: bool,
}

/// What became of a stop, by the entries that say so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StopRecord {
    pub scope: Scope,
    pub index: u64,
    pub outcome: Option<u64>,
    /// The newest that names it.
    pub release: Option<u64>,
    /// The one for its whole scope.
    pub start: Option<u64>,
    /// The lock is gone.
    pub over: bool,
    pub drill: Option<u64>,
}

impl Ledger {
    /// The newest drill of each scope on `scope`, above it or below it, the newest first.
    pub fn drills(&self, scope: &Scope) -> Vec<&LatestDrill> {
        let touching = |on: &Scope| on.covers(scope) || scope.covers(on);
        let mut drills: Vec<_> = self.drills.values().filter(|drill| touching(&drill.scope)).collect();
        drills.sort_by_key(|drill| std::cmp::Reverse(drill.index));
        drills
    }

    /// What became of the stop that placed this lock; `None` where there never was one.
    pub fn stop_record(&self, lock: &Digest) -> Option<StopRecord> {
        let used = self.used.get(lock)?;
        let (scope, release, start, over) = match (self.locks.get(lock), used.ended.as_deref()) {
            (Some(lock), _) => (&lock.scope, lock.released_at, None, false),
            (None, Some(ended)) => (&ended.scope, Some(ended.release), ended.start, true),
            // Other documents stop nothing.
            (None, None) => return None,
        };
        let (scope, achieved) = (scope.clone(), used.outcome.as_deref());
        let (outcome, drill) = (achieved.map(|a| a.index), achieved.and_then(|a| a.drill));
        Some(StopRecord { scope, index: used.index, outcome, release, start, over, drill })
    }

    /// The locks, of all that ever were, whose ids begin so in hexadecimal.
    pub fn stops_beginning(&self, text: &str) -> Vec<Digest> {
        let begins = |id: &&Digest| id.to_string().starts_with(text) && self.stop_record(id).is_some();
        self.used.keys().filter(begins).copied().collect()
    }

    /// Whether a drill would be taken now. Its receipt if it was.
    pub fn check_drill(&self, envelope: &Envelope) -> Result<Option<Receipt>, Refusal> {
        match self.judge_drill(envelope)? {
            Judged::New(_) => Ok(None),
            Judged::Repeated(receipt) => Ok(Some(receipt)),
        }
    }

    pub(super) fn judge_drill(&self, envelope: &Envelope) -> Result<Judged, Refusal> {
        if envelope.signatures.is_empty() {
            return Err(Refusal::Unsigned(format!(
                "the drill has no signature; sign it with: ssh-keygen -Y sign -n {DRILL_NAMESPACE} -f KEY FILE"
            )));
        }
        envelope.check_bounds()?;
        let trust = self.trust().ok_or(Refusal::NoGenesis)?;
        let drill = Drill::parse(envelope.document.as_bytes())?;
        trust.check_deployment(&drill.deployment)?;
        // By whoever may stop the scope, automation too: it says what was, and gives nothing.
        let signers = trust.signers_in(DRILL_NAMESPACE, envelope);
        trust.authority().authorise(ActionKind::Stop, &drill.scope, &signers)?;
        let by = signers.names();
        if let Some(receipt) = self.repeated(envelope)? {
            return Ok(Judged::Repeated(receipt));
        }
        self.check_facts(&drill)?;
        Ok(Judged::New(Change::Drill(Box::new(drill), by)))
    }

    /// Whether a drill says what the log does.
    fn check_facts(&self, drill: &Drill) -> Result<(), Refusal> {
        let lock = drill.stop.digest;
        let stop = self.stop_record(&lock).ok_or(Refusal::NoSuchStop(lock))?;
        if stop.scope != drill.scope {
            let (lock_scope, scope) = (stop.scope, drill.scope.clone());
            return Err(Refusal::DrillElsewhere { lock, lock_scope, scope });
        }
        let achieved = self.used.get(&lock).and_then(|used| used.outcome.as_deref());
        let achieved = achieved.ok_or(Refusal::NoOutcome(lock))?;
        if let Some(index) = achieved.drill {
            return Err(Refusal::DrillKnown { lock, index });
        }
        let entry =
            |index: Option<u64>| index.map_or_else(|| "not in the log".into(), |i| format!("entry {i}"));
        let placed = |place: Option<Place>| place.map(|place| place.index);
        let ms = |ms: Option<u64>| format!("{} ms", shown(ms));
        let number = |n: u64| n.to_string();
        let figures = achieved.figures;
        let (confirmed, bounded) = (figures.confirmed.unwrap_or(0), figures.bounded.unwrap_or(0));
        for (what, said, found) in [
            ("the stop as", entry(Some(drill.stop.index)), entry(Some(stop.index))),
            ("the outcome as", entry(Some(drill.outcome)), entry(Some(achieved.index))),
            ("confirmed instances:", number(drill.confirmed), number(confirmed)),
            ("bounded instances:", number(drill.bounded), number(bounded)),
            ("the slowest:", ms(drill.slowest_ms), ms(figures.slowest_ms)),
            ("the release as", entry(placed(drill.release)), entry(stop.release)),
            ("the start as", entry(placed(drill.start)), entry(stop.start)),
        ] {
            if said != found {
                return Err(Refusal::DrillDiffers { what: what.into(), said, found });
            }
        }
        for place in [drill.release, drill.start].into_iter().flatten() {
            if self.used_at(&place.digest) != Some(place.index) {
                let (what, said) = (format!("entry {} as", place.index), place.digest.to_string());
                return Err(Refusal::DrillDiffers { what, said, found: "another document".into() });
            }
        }
        Ok(())
    }

    pub(super) fn drilled(&mut self, drill: Drill, by: Vec<String>, receipt: &Receipt) {
        let lock = drill.stop.digest;
        let achieved = self.used.get_mut(&lock).and_then(|used| used.outcome.as_mut());
        achieved.expect("judged to have an outcome").drill = Some(receipt.index);
        let resumed = !self.locks.contains_key(&lock);
        let Drill { scope, confirmed, bounded, slowest_ms, .. } = drill;
        let (index, time_ms) = (receipt.index, receipt.time_ms);
        let latest = LatestDrill { scope, lock, index, time_ms, by, confirmed, bounded, slowest_ms, resumed };
        self.drills.insert(latest.scope.clone(), latest);
        while self.drills.len() > DRILLED_SCOPES_MAX {
            let oldest =
                self.drills.values().min_by_key(|drill| drill.index).map(|drill| drill.scope.clone());
            self.drills.remove(&oldest.expect("there are some"));
        }
    }
}

/// By scope.
pub(super) type Drills = BTreeMap<Scope, LatestDrill>;
