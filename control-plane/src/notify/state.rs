//! How far each receiver was told, on every node. Only the node that leads tells anybody, and changes it; the others are told
//! of it, so that the next leader goes on from there. What was not told in time is sent twice, with the same ids.
//!
//! ```text
//! <data>/notifications.json      replaced as a whole; an older one means doubles, and nothing is lost by it
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::event::Event;
use crate::store::files;

/// Dead letters of one receiver. Of what is dropped beyond that, the log still has the entry.
pub const DEAD_LETTERS_MAX: usize = 256;
/// Warnings that one receiver was told of, of consent that has not ended.
pub const WARNED_MAX: usize = 4096;
/// Receivers whose state is kept: those of other nodes' files, too.
const STATES_MAX: usize = 128;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Who changed it last: a leader's term, and its changes in that.
    pub term: u64,
    pub seq: u64,
    /// The entry that is told next.
    pub cursor: u64,
    /// It answered 410: why.
    pub disabled: Option<String>,
    pub failing: Option<Failing>,
    /// The oldest first.
    #[serde(default)]
    pub dead: Vec<DeadLetter>,
    #[serde(default)]
    pub dead_dropped: u64,
    /// Ids of warnings.
    #[serde(default)]
    pub warned: BTreeSet<String>,
}

/// What could not be delivered yet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failing {
    pub id: String,
    pub since_ms: u64,
    pub attempts: u32,
    pub error: String,
    /// When it is tried again.
    pub next_ms: u64,
}

/// What was given up. Of an entry its index is enough: the event is made from the log again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeadLetter {
    pub id: String,
    pub index: Option<u64>,
    /// Of what no log has.
    pub event: Option<Event>,
    pub attempts: u32,
    pub error: String,
    pub at_ms: u64,
    /// Somebody asked for it to be sent again.
    pub again: bool,
}

pub type States = BTreeMap<String, State>;

impl State {
    fn stamp(&self) -> (u64, u64) {
        (self.term, self.seq)
    }

    /// Takes over what is newer. Of two that no leader has changed, the one that is further behind.
    fn take(&mut self, other: State) -> bool {
        let newer =
            other.stamp() > self.stamp() || (other.stamp() == self.stamp() && other.cursor < self.cursor);
        if newer {
            *self = other;
        }
        newer
    }

    /// Gives one up. What has no room is named in the node's log, by an id that can be replayed.
    pub fn bury(&mut self, receiver: &str, letter: DeadLetter) {
        if let Some(known) = self.dead.iter_mut().find(|dead| dead.id == letter.id) {
            *known = letter;
            return;
        }
        if self.dead.len() >= DEAD_LETTERS_MAX {
            // What strangers were refused, which they can make as much of as they like, takes no place of what is in the log.
            let unlogged = self.dead.iter().position(|dead| dead.index.is_none());
            let oldest = self.dead.remove(unlogged.unwrap_or(0));
            self.dead_dropped += 1;
            tracing::error!(
                receiver,
                id = oldest.id,
                error = oldest.error,
                "there is no room for more dead letters, and this one is dropped: an id that begins with evt_ can still be \
                 replayed by `tagout notifications replay`"
            );
        }
        self.dead.push(letter);
    }
}

/// Takes over what is newer of `theirs`; true if something was.
pub fn merge(ours: &mut States, theirs: States) -> bool {
    let mut changed = false;
    for (name, state) in theirs {
        if let Some(known) = ours.get_mut(&name) {
            changed |= known.take(state);
        } else if ours.len() < STATES_MAX {
            ours.insert(name, state);
            changed = true;
        }
    }
    changed
}

/// Those of `ours` that are newer than `theirs`, or that those lack.
pub fn newer(ours: &States, theirs: &States) -> States {
    let is_newer = |name: &String, state: &State| theirs.get(name).is_none_or(|t| state.stamp() > t.stamp());
    ours.iter().filter(|(name, state)| is_newer(name, state)).map(|(n, s)| (n.clone(), s.clone())).collect()
}

/// What a crash at any moment has left. A file that cannot be read is set aside, loudly: a node that does not start is worse
/// than receivers that begin anew.
pub fn load(path: &Path) -> io::Result<States> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(States::new()),
        Err(error) => return Err(error),
    };
    serde_json::from_str(&text).or_else(|error| {
        let aside = path.with_extension("json.damaged");
        std::fs::rename(path, &aside)?;
        tracing::error!(
            %error, aside = %aside.display(),
            "what receivers of notifications were told could not be read and is set aside: unless another node knows it, they go \
             on from here, and entries before are replayed by their ids"
        );
        Ok(States::new())
    })
}

pub fn save(path: &Path, states: &States) -> io::Result<()> {
    files::replace(path, &serde_json::to_vec(states).expect("states are plain data"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(term: u64, seq: u64, cursor: u64) -> State {
        State { term, seq, cursor, ..State::default() }
    }

    fn of(state: State) -> States {
        BTreeMap::from([("soc".to_owned(), state)])
    }

    #[test]
    fn the_newest_leader_is_believed_and_of_new_ones_who_is_behind() {
        let mut ours = of(state(2, 9, 100));
        assert!(!merge(&mut ours, of(state(1, 50, 300))), "an older leader");
        assert!(!merge(&mut ours, of(state(2, 8, 99))), "older");
        assert!(merge(&mut ours, of(state(3, 1, 90))), "a new leader that knew less sends twice");
        assert_eq!(ours["soc"].cursor, 90);
        let mut new = of(state(0, 0, 12));
        assert!(merge(&mut new, of(state(0, 0, 10))) && !merge(&mut new, of(state(0, 0, 11))));
        assert_eq!(newer(&ours, &new), ours);
        assert!(newer(&new, &ours).is_empty());
    }

    #[test]
    fn dead_letters_stay_bounded_and_are_one_for_each_id() {
        let letter = |n: usize| DeadLetter {
            id: format!("evt_{n}_x"),
            index: Some(n as u64),
            event: None,
            attempts: 1,
            error: "400".into(),
            at_ms: 0,
            again: false,
        };
        let mut state = State::default();
        for n in 0..DEAD_LETTERS_MAX + 3 {
            state.bury("soc", letter(n));
        }
        assert_eq!((state.dead.len(), state.dead_dropped), (DEAD_LETTERS_MAX, 3));
        assert_eq!(state.dead[0].id, "evt_3_x");
        for id in ["sec_1", "sec_2"] {
            state.bury("soc", DeadLetter { id: id.into(), index: None, ..letter(0) });
        }
        let oldest = (state.dead[0].id.as_str(), state.dead.last().unwrap().id.as_str());
        assert_eq!(oldest, ("evt_4_x", "sec_2"), "refused attempts drop each other");
        state.bury("soc", DeadLetter { attempts: 2, ..letter(5) });
        assert_eq!((state.dead.len(), state.dead[1].attempts), (DEAD_LETTERS_MAX, 2));
    }

    #[test]
    fn what_is_saved_reads_back_and_what_is_damaged_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notifications.json");
        assert!(load(&path).unwrap().is_empty());
        let states = of(state(1, 2, 3));
        save(&path, &states).unwrap();
        assert_eq!(load(&path).unwrap(), states);
        std::fs::write(&path, "{").unwrap();
        assert!(load(&path).unwrap().is_empty());
        assert!(dir.path().join("notifications.json.damaged").exists() && !path.exists());
    }
}
