//! The JSON bodies of the node's HTTP API that are not documents of their own. Times are Unix milliseconds.

use serde::{Deserialize, Serialize};

use crate::authority::Limits;
use crate::command::ActionKind;
use crate::digest::Digest;
use crate::envelope::Envelope;
use crate::ledger::{Enrolment, GrantSummary, LatestDrill, LockRecord};
use crate::restore::Epoch;
use crate::rule::{Terms, Verdict};
use crate::scope::Scope;

/// Every error, as `application/problem+json` (RFC 9457).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// A stable name for programs, such as `unsigned` or `below-threshold`.
    pub code: String,
    pub status: u16,
    pub title: String,
    /// What is wrong and what to do about it.
    pub detail: String,
}

/// `POST /v1/commands` and `POST /agent/shutdown`: 201 when it took effect now, 200 when it had before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandAnswer {
    pub action: ActionKind,
    pub scope: Scope,
    /// SHA-256 of the command's bytes; a stop's lock id.
    pub digest: Digest,
    /// Its entry in the log.
    pub index: u64,
    pub time_ms: u64,
    pub repeated: bool,
    /// Locks or grants that it names and that have not arrived yet; it is remembered for them.
    pub awaited: u64,
    pub reach: Reach,
}

/// `POST /v1/trips`: 201 when it took effect now, 200 when it had before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TripAnswer {
    /// SHA-256 of the trip's bytes; the lock's id.
    pub digest: Digest,
    pub scope: Scope,
    /// Its entry in the log.
    pub index: u64,
    pub time_ms: u64,
    pub repeated: bool,
}

/// What somebody may who reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AccessRole {
    /// Reads.
    Viewer,
    /// Reads, and sees who else does.
    Operator,
}

/// `GET /v1/tokens`: the API tokens that this node takes. Nobody is shown a token, nor its SHA-256.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tokens {
    /// Whoever asks, as this node knows them.
    pub you: String,
    pub tokens: Vec<TokenRecord>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    pub name: String,
    pub role: AccessRole,
    /// What it may see, each with all below it.
    pub scopes: Vec<Scope>,
    pub expires_at_ms: u64,
    /// At this node, since its start.
    pub last_used_ms: Option<u64>,
}

/// What a scope holds, as far as this node knows: agents with a grant of their own or seen by a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reach {
    pub agents: u64,
    pub instances: u64,
}

/// `GET /v1/status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub deployment: String,
    pub node: String,
    pub epoch: Epoch,
    pub log_size: u64,
    pub log_root: Digest,
    pub authority_version: u64,
    pub rule_version: u64,
    pub limits: Limits,
    pub time_ms: u64,
    pub locks: u64,
    /// Unexpired ones, by scope.
    pub grants: Vec<GrantSummary>,
}

/// `GET /v1/enrolments?scope=…`: those in force on the scope, above it or below it, the oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolments {
    /// Without a token nobody gets a lease.
    pub required: bool,
    pub enrolments: Vec<EnrolmentRecord>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrolmentRecord {
    /// SHA-256 of the command that enrolled it: what a revoke names.
    pub id: Digest,
    #[serde(flatten)]
    pub enrolment: Enrolment,
}

/// `GET /v1/cluster`: the nodes, as the one that answers sees them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// The id of the node that answers.
    pub node: u64,
    /// Absent while none is known.
    pub leader: Option<u64>,
    pub term: u64,
    /// Who votes now. These follow the authority, one change at a time.
    pub voters: Vec<u64>,
    /// By id: every node of the authority, and those that it no longer has and Raft still knows.
    pub nodes: Vec<ClusterNode>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterNode {
    pub id: u64,
    /// The name of its key.
    pub name: String,
    /// Where the other nodes reach it.
    pub address: Option<String>,
    pub role: NodeRole,
    /// What it last said of itself; absent when nothing was heard from it lately.
    pub heard: Option<NodeNews>,
}

/// What the authority makes of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeRole {
    Voter,
    Learner,
    /// Nothing: it was removed, and Raft has yet to follow.
    Removed,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeNews {
    pub ms_ago: u64,
    /// It can issue leases.
    pub ready: bool,
    /// Entries that it has applied.
    pub log_size: u64,
    /// Its clock minus that of the node that answers.
    pub clock_offset_ms: i64,
    /// Of its build.
    pub version: String,
    /// The newest rule of verdicts that its build knows.
    pub rule_version: u64,
}

/// `GET /v1/authority`: whom to believe. Every authority from the genesis on, every suspend and every restore, in the
/// log's order and each to be verified by the reader (`trust::Trust::learn`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustChain {
    pub documents: Vec<Envelope>,
    /// Where each of them lies in the log.
    pub entries: Vec<u64>,
}

/// `POST /v1/authority/impact`, with the document of a next authority, a suspend or a revoke as text: what it would take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorityImpact {
    /// The authority in force after it.
    pub version: u64,
    /// Grants that would be void for ever.
    pub voids: Vec<GrantSummary>,
    /// Scopes that would lose their last consent: an authority's `disables` must be at least as many.
    pub disables: Vec<Scope>,
}

/// `POST /v1/proposals`, where signatures are still missing (202): a command that gives, and what is known of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProposalRecord {
    /// SHA-256 of the command's bytes.
    pub id: Digest,
    pub action: ActionKind,
    pub scope: Scope,
    /// The command's exact bytes, with the signatures that count.
    pub command: Envelope,
    pub signed_by: Vec<String>,
    /// What it still takes, in words; absent once that is nothing, and then anybody who signed may send it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<String>,
    /// The entries of the log that brought the signatures.
    pub entries: Vec<u64>,
    pub expires_at_ms: u64,
}

/// `GET /v1/proposals?scope=…`: those that may be signed, on the scope, above it or below it, the oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposals {
    pub proposals: Vec<ProposalRecord>,
}

/// `GET /v1/proposals/{id}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProposalShown {
    #[serde(flatten)]
    pub proposal: ProposalRecord,
    pub enables: Enables,
}

/// What a command would let run, as far as this node knows: the agents on and below its scope. A start is shown as if its
/// locks were released, and as if the releases that are proposed were in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enables {
    /// All that there are.
    pub agents: u64,
    pub instances: u64,
    /// Those that may do more by it than they may now.
    pub more: u64,
    /// The first of these.
    pub first: Vec<Enabled>,
    /// Nodes that did not say which agents they know: there may be more.
    #[serde(default)]
    pub unheard: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enabled {
    pub scope: Scope,
    pub instances: u64,
    pub verdict: Verdict,
    pub verdict_then: Verdict,
}

/// `POST /v1/drills`: 201 when it came into the log now, 200 when it had before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillAnswer {
    pub scope: Scope,
    /// The stop's lock.
    pub lock: Digest,
    /// SHA-256 of the drill's bytes.
    pub digest: Digest,
    /// Its entry in the log.
    pub index: u64,
    pub time_ms: u64,
    pub repeated: bool,
}

/// `GET /v1/drills?scope=…`: the newest of each scope on it, above it or below it, the newest first; the log has all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drills {
    pub drills: Vec<LatestDrill>,
}

/// `GET /v1/agents?scope=…`: agents at or below the scope.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agents {
    pub agents: Vec<Agent>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agent {
    pub scope: Scope,
    pub verdict: Verdict,
    /// Every lock that holds it, on it or above it.
    pub locks: Vec<Digest>,
    /// Essential call classes, and what it may call per minute.
    pub terms: Terms,
    /// When its last grant ends; absent without one.
    pub consent_until_ms: Option<u64>,
    pub instances: Vec<Instance>,
}

/// A process that holds a guard for the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    pub instance: String,
    /// How long ago its last lease was issued.
    pub seen_ms_ago: u64,
}

/// `GET /v1/locks?scope=…`: locks on the scope, above it or below it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Locks {
    pub locks: Vec<LockRecord>,
}

/// `GET /v1/locks/{id}/reach?after=VERSION`: answered once there is a newer version, or after 20 s as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopReach {
    pub lock: Digest,
    pub version: u64,
    /// Milliseconds since the stop was committed on this node.
    pub age_ms: u64,
    /// After so many milliseconds no guard begins a call: no lease from before the stop is alive (S3).
    pub bounded_after_ms: u64,
    /// After so many milliseconds calls that were under way are cut, wherever they run; absent for a pause.
    pub calls_bounded_after_ms: Option<u64>,
    pub instances: Vec<InstanceReach>,
    /// Every instance has confirmed, or the bound has passed.
    pub settled: bool,
    /// The outcome's entry in the log, once it is there.
    pub outcome_index: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceReach {
    pub agent: Scope,
    pub instance: String,
    pub state: ReachState,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum ReachState {
    /// Its lease may still be alive. `connected` is one that listened to a node when the stop came.
    Waiting { connected: bool },
    /// It said so itself: no new calls, calls in flight are cut.
    Confirmed {
        /// From commit to the confirmation's arrival, by the node's clock.
        after_ms: u64,
        /// From the stop's arrival to the guard's closing, by the instance's clock, in microseconds.
        closed_us: u64,
        /// From the stop's arrival until the last call in flight was cut, in microseconds.
        cut_us: u64,
        calls_cut: u64,
        by: StopPath,
    },
    /// Silent, but its last lease from before the stop is dead (S3). Where it was connected, somebody should look at it.
    Bounded { connected: bool },
}

/// How a stop reached a guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopPath {
    Push,
    Lease,
    /// A file that was dropped on its host.
    File,
    /// Its own program brought it.
    Deliver,
}

/// `POST /v1/confirmations`. Step ⑧ of a stop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Confirmation {
    pub lock: Digest,
    pub agent: Scope,
    pub instance: String,
    pub closed_us: u64,
    pub cut_us: u64,
    pub calls_cut: u64,
    pub by: StopPath,
    /// How long it waited before it was sent, as `StopEvent::confirm_within_ms` asks, in microseconds.
    #[serde(default)]
    pub waited_us: u64,
}

/// The data of an `event: stop` of `GET /v1/events?scope=a,b`: anything signed that takes away. Step ⑥ of a stop.
///
/// The other events are `hello` (once, `Renew` as data) and `renew` (`Renew` as data).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopEvent {
    pub stop: Envelope,
    /// Its entry in the log; `null` while no log has it yet (pending): the signature alone makes it a stop (S6).
    pub index: Option<u64>,
    /// The entry's time, or when the node took it if there is no entry yet.
    pub time_ms: u64,
    /// Those whom it is pushed to confirm it at random moments within so long, so that the pushes of many are not held up by
    /// the confirmations of the first.
    #[serde(default)]
    pub confirm_within_ms: u64,
}

/// The data of an `event: renew`: something was given, or (`deny`) stops may have been missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renew {
    pub log_size: u64,
    /// Deny until a lease made after this has come.
    pub deny: bool,
    /// Those whom it is pushed ask for a lease at random moments within so long, so that a fleet that is given back at once
    /// does not come at once.
    #[serde(default)]
    pub within_ms: u64,
}

/// The document of an `outcome` entry. Step ⑨ of a stop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    pub tagout: u64,
    pub outcome: Digest,
    /// The node that observed it.
    pub node: String,
    pub bounded_after_ms: u64,
    pub calls_bounded_after_ms: Option<u64>,
    pub confirmed: u64,
    pub bounded: u64,
    pub slowest_ms: Option<u64>,
    pub calls_cut: u64,
    /// The first of them; the counts above hold for all.
    pub instances: Vec<InstanceReach>,
}

/// `GET /v1/notifications`: who is told of what happens, and how far that is, as the node that answers knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notifications {
    pub node: String,
    /// Entries in its log.
    pub log_size: u64,
    pub receivers: Vec<NotificationReceiver>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotificationReceiver {
    pub name: String,
    pub format: String,
    /// Where it is, without what may be a secret.
    pub place: String,
    /// The entry that it is told next.
    pub cursor: u64,
    /// Entries of the log from there on.
    pub behind: u64,
    /// Events that no log has and that wait for it here.
    pub queued: u64,
    /// What it answered when it wanted no more; it is told nothing until somebody resumes it.
    pub disabled: Option<String>,
    pub failing: Option<FailingNotification>,
    /// The oldest first.
    pub dead_letters: Vec<DeadLetter>,
    pub dead_letters_dropped: u64,
}

/// What a receiver does not take, and is tried again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailingNotification {
    pub id: String,
    pub since_ms: u64,
    pub attempts: u32,
    pub error: String,
    pub next_ms: u64,
}

/// What was given up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    pub id: String,
    /// Its entry in the log; `null` where no log has it.
    pub index: Option<u64>,
    pub attempts: u32,
    pub error: String,
    pub at_ms: u64,
    /// It is about to be sent again.
    pub again: bool,
}

/// `POST /v1/notifications/{name}/replay?id=ID`; all dead letters without an id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotificationsReplayed {
    pub receiver: String,
    /// How many are about to be sent again.
    pub replayed: u64,
}

/// `POST /v1/notifications/{name}/resume`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotificationsResumed {
    pub receiver: String,
}

/// `POST /v1/notifications/{name}/test`: one event that says nothing, sent by the node that answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotificationTest {
    pub id: String,
    pub delivered: bool,
    /// What the receiver said, or why there is no answer.
    pub answer: String,
}
