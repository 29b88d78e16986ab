//! The deployment: its state, and everything that can happen next.

use stateright::{Model, Property};

use crate::documents::*;
use crate::guard::{Answer, Ask, Guard};
use crate::mutation::Mutation;
use crate::properties::{self, Sight};
use crate::service::Service;

/// An age that has not begun.
pub const NEVER: u8 = u8::MAX;

/// What one exploration is about. Whatever is not bounded here is explored without bound.
#[derive(Clone, Debug)]
pub struct World {
    pub catalogue: Catalogue,
    /// Signed and in the log from the start.
    pub given: Documents,
    /// One guard for each.
    pub agents: Vec<Place>,
    pub ttl: u8,
    pub grace: u8,
    /// Requests that a guard may have under way; one more and the oldest is lost.
    pub asks: usize,
    /// Ticks after which a guard gives up a request.
    pub patience: u8,
    /// Guards may crash and come back without any memory.
    pub restarts: bool,
    /// Old answers are replayed for other nonces, those of other guards included.
    pub replays: bool,
    /// The whole service lies, with live keys, and commits nothing.
    pub liars: bool,
    /// How far the leader's clock is ahead when it dates entries.
    pub clock_ahead: u8,
    /// What must be reachable.
    pub sights: Vec<Sight>,
    pub mutation: Option<Mutation>,
}

/// Times are ages, which stop growing where they no longer matter: so the state space is finite although time is not.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub signed: Documents,
    pub service: Service,
    /// Of a lock, since the service acknowledged it; of a grant, since it was signed.
    pub ages: [u8; DOCUMENTS_MAX],
    pub guards: Vec<Guard>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Time passes, for everybody.
    Tick,
    /// Time passes, but not on this guard's clock (a mutation).
    TickUnseenBy(usize),
    /// People sign a document.
    Sign(Id),
    /// The service commits and acknowledges it.
    Commit(Id),
    /// A backup is taken of the service.
    Backup,
    /// All nodes are lost; the backup becomes the service, in the epoch that this document begins.
    Restore(Id),
    /// A signed lock reaches a guard by any path: by push from any node, stale or not, or as a file on its host.
    Deliver { guard: usize, lock: Id },
    /// The guard makes a nonce and asks for a lease.
    Ask { guard: usize },
    /// The service reads its state and answers the guard's request of this age.
    Answer { guard: usize, ask: usize },
    /// A node reads before it knows for which nonces (a mutation).
    ReadEarly,
    /// A node answers what it likes, with every document that there could be.
    Lie { guard: usize, ask: usize, epoch: u8, size: u8 },
    /// The answer arrives: late or never, once or more often, in any order.
    Arrive { guard: usize, ask: usize },
    /// An answer that was made for another nonce arrives instead.
    Replay { from: (usize, usize), guard: usize, ask: usize },
    /// The guard's process crashes and starts anew.
    Restart { guard: usize },
}

impl World {
    pub fn new(catalogue: Catalogue, given: &[Id], agents: &[Place]) -> Self {
        Self {
            catalogue,
            given: given.iter().copied().collect(),
            agents: agents.to_vec(),
            ttl: 2,
            grace: 1,
            asks: 1,
            patience: 2,
            restarts: false,
            replays: false,
            liars: false,
            clock_ahead: 0,
            sights: Vec::new(),
            mutation: None,
        }
    }

    pub fn makes(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }

    /// From here on an age is old for every purpose.
    pub fn horizon(&self) -> u8 {
        let drains = self.catalogue.locks.iter().map(|lock| self.catalogue.drain(lock));
        self.ttl + self.grace + self.clock_ahead + drains.max().unwrap_or(0) as u8
    }

    /// Whether these documents end the lock for the agent, to a node or guard that makes the world's mistake.
    pub fn ended(&self, lock: Id, agent: Place, by: Documents) -> bool {
        let catalogue = &self.catalogue;
        match self.mutation {
            Some(Mutation::ReleaseAloneRestarts) => catalogue.released(lock, by),
            Some(Mutation::NamesNoHash) => {
                let what = |lock| (catalogue.kind(lock), catalogue.place(lock));
                let mut alike = catalogue.locks.iter().filter(|other| what(*other) == what(lock));
                alike.any(|other| catalogue.ended(other, agent, by))
            }
            _ => catalogue.ended(lock, agent, by),
        }
    }

    /// Grants of this epoch that cover the agent and have not expired.
    pub fn grants_in_force(&self, state: &State, agent: Place, epoch: u8) -> Documents {
        let in_force = |id: &Id| {
            let (on, of_epoch, life) = self.catalogue.grant_of(*id);
            on.covers(agent)
                && (of_epoch == epoch || self.makes(Mutation::GrantOfAnyEpoch))
                && life.is_none_or(|life| state.ages[*id] < life)
        };
        self.catalogue.grants.iter().filter(in_force).collect()
    }

    fn tick(&self, state: &mut State, unseen_by: Option<usize>) {
        let horizon = self.horizon();
        for (id, age) in state.ages.iter_mut().enumerate().filter(|(_, age)| **age != NEVER) {
            let end = match self.catalogue.grants.has(id).then(|| self.catalogue.grant_of(id)) {
                Some((_, _, life)) => life.unwrap_or(0),
                None => horizon,
            };
            *age = (*age + 1).min(end);
        }
        for (at, guard) in state.guards.iter_mut().enumerate() {
            guard.tick(self, unseen_by == Some(at));
        }
    }

    /// What people may sign now: what names a document comes after it, a grant knows its epoch, and nobody restores a
    /// service to an epoch that it has had.
    fn may_sign(&self, state: &State, id: Id) -> bool {
        match self.catalogue.get(id) {
            Document::Lock { .. } => true,
            Document::Release { lock } | Document::Start { lock, .. } => state.signed.has(lock),
            Document::Grant { epoch, .. } => epoch == state.service.epoch,
            Document::Restore { epoch } => epoch == state.service.epoch + 1,
        }
    }
}

impl Model for World {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut ages = [NEVER; DOCUMENTS_MAX];
        (self.given.iter()).for_each(|id| ages[id] = 0);
        vec![State {
            signed: self.given,
            service: Service::new(self.given),
            ages,
            guards: self.agents.iter().map(|_| Guard::default()).collect(),
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        actions.push(Action::Tick);
        for id in self.catalogue.all().iter() {
            if !state.signed.has(id) {
                actions.extend(self.may_sign(state, id).then_some(Action::Sign(id)));
            } else if state.service.takes(self, state, id) {
                match self.catalogue.get(id) {
                    Document::Restore { .. } => actions.push(Action::Restore(id)),
                    _ => actions.extend((!self.liars).then_some(Action::Commit(id))),
                }
            }
        }
        if self.catalogue.restore_of(state.service.epoch + 1).is_some() && !self.liars {
            actions.push(Action::Backup);
        }
        if self.makes(Mutation::ReadBeforeNonce) {
            actions.push(Action::ReadEarly);
        }
        for guard in 0..state.guards.len() {
            self.guard_actions(state, guard, actions);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Tick => self.tick(&mut state, None),
            Action::TickUnseenBy(guard) => self.tick(&mut state, Some(guard)),
            Action::Sign(id) => {
                state.signed = state.signed.with(id);
                if self.catalogue.grants.has(id) {
                    state.ages[id] = 0;
                }
            }
            Action::Commit(id) => Service::commit(self, &mut state, id),
            Action::Backup => state.service.backup = state.service.log,
            Action::Restore(id) => Service::restore(self, &mut state, id),
            Action::Deliver { guard, lock } => state.guards[guard].deliver(self, lock),
            Action::Ask { guard } => state.guards[guard].ask(self),
            Action::Answer { guard, ask } => {
                let known = state.guards[guard].asks[ask].known;
                let answer = state.service.answer(self, &state, self.agents[guard], known);
                state.guards[guard].asks[ask].answer = Some(answer);
            }
            Action::ReadEarly => state.service.stale = Some((state.service.epoch, state.service.log)),
            Action::Lie { guard, ask, epoch, size } => {
                let documents = self.catalogue.all();
                let lie = Answer { epoch, size, shown: Documents::default(), documents, truth: None };
                state.guards[guard].asks[ask].answer = Some(lie);
            }
            Action::Arrive { guard, ask } => {
                let Ask { age, known, answer } = state.guards[guard].asks[ask];
                self.arrive(&mut state, guard, age, known, answer?);
            }
            Action::Replay { from: (other, old), guard, ask } => {
                let Ask { age, known, .. } = state.guards[guard].asks[ask];
                let answer = state.guards[other].asks[old].answer?;
                // The answer binds its own nonce: to any other guard or request it is noise.
                if self.makes(Mutation::NonceNotBound) {
                    self.arrive(&mut state, guard, age, known, answer);
                }
            }
            Action::Restart { guard } => state.guards[guard] = Guard::default(),
        }
        for guard in 0..state.guards.len() {
            let verdict = state.guards[guard].verdict(self, &state, self.agents[guard]);
            state.guards[guard].settle(self, verdict);
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let sights = self.sights.iter().map(|sight| Property::sometimes(sight.0, sight.1));
        properties::always(self).into_iter().chain(sights).collect()
    }
}

impl World {
    fn guard_actions(&self, state: &State, guard: usize, actions: &mut Vec<Action>) {
        let asks = &state.guards[guard].asks;
        for lock in (state.signed & self.catalogue.locks).iter() {
            if matches!(self.catalogue.get(lock), Document::Lock { on, .. } if on.covers(self.agents[guard]))
            {
                actions.push(Action::Deliver { guard, lock });
            }
        }
        actions.push(Action::Ask { guard });
        for (ask, Ask { answer, .. }) in asks.iter().enumerate() {
            match answer {
                Some(_) => actions.push(Action::Arrive { guard, ask }),
                None if self.liars => self.lies(guard, ask, actions),
                None => actions.push(Action::Answer { guard, ask }),
            }
            if self.replays {
                let answered =
                    |other: usize| (0..state.guards[other].asks.len()).map(move |old| (other, old));
                for from in (0..state.guards.len()).flat_map(answered).filter(|from| *from != (guard, ask)) {
                    actions.push(Action::Replay { from, guard, ask });
                }
            }
        }
        if self.restarts {
            actions.push(Action::Restart { guard });
        }
        if self.makes(Mutation::ClockSleeps) {
            actions.push(Action::TickUnseenBy(guard));
        }
    }

    /// A lie with no locks and all documents tempts the guard most; what is left to choose is when it claims to be from.
    fn lies(&self, guard: usize, ask: usize, actions: &mut Vec<Action>) {
        for epoch in 0..self.catalogue.epochs() {
            actions.extend([0, 1, 2].map(|size| Action::Lie { guard, ask, epoch, size }));
        }
    }

    fn arrive(&self, state: &mut State, guard: usize, age: u8, known: Documents, answer: Answer) {
        let mut accepting = std::mem::take(&mut state.guards[guard]);
        accepting.accept(self, state, self.agents[guard], age, known, answer);
        state.guards[guard] = accepting;
    }

    /// An action in words, for a counterexample.
    pub fn tell(&self, action: &Action) -> String {
        let name = |id: &Id| self.catalogue.name(*id);
        match action {
            Action::Tick => "tick".into(),
            Action::TickUnseenBy(guard) => format!("guard {guard} sleeps a tick"),
            Action::Sign(id) => format!("sign {}", name(id)),
            Action::Commit(id) => format!("commit {}", name(id)),
            Action::Backup => "backup".into(),
            Action::Restore(id) => name(id),
            Action::Deliver { guard, lock } => format!("{} reaches guard {guard}", name(lock)),
            Action::Ask { guard } => format!("guard {guard} asks"),
            Action::Answer { guard, .. } => format!("guard {guard} is answered"),
            Action::ReadEarly => "a node reads early".into(),
            Action::Lie { guard, epoch, size, .. } => {
                format!("a lie for guard {guard}: epoch {epoch}, size {size}")
            }
            Action::Arrive { guard, .. } => format!("guard {guard} has its answer"),
            Action::Replay { guard, .. } => format!("guard {guard} has another's answer"),
            Action::Restart { guard } => format!("guard {guard} restarts"),
        }
    }
}
