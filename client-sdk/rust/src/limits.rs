//! Every bound of the SDK, in one place. Those of the formats are in `tagout_proto::limits`.

/// Guards of one client, by agent.
pub const AGENTS_MAX: usize = 65_536;
/// The name of a process; nodes take no longer one.
pub const INSTANCE_MAX_BYTES: usize = 128;
/// Locks that one client keeps latched, over all its agents. One more denies its agent for good.
pub const LOCKS_MAX: usize = 65_536;
/// Locks that came past the service, by files or by the program. One more denies all agents that come later.
pub const DELIVERED_MAX: usize = 1_024;
/// Cleared locks remembered per agent, so that a late push of one is no new stop.
pub const CLEARED_PER_AGENT_MAX: usize = 64;
/// Locks in one view: a node shows the strongest of each kind.
pub const LOCKS_PER_VIEW_MAX: usize = 16;

/// Grants that one client remembers as revoked. One more denies all its agents for good.
pub const REVOKED_MAX: usize = 100_000;
/// Classes of essential calls that one agent's guards have handles for.
pub const ESSENTIAL_HANDLES_MAX: usize = 16;
/// Sockets that the calls of one agent have registered; each takes a descriptor of its own.
pub const SOCKETS_PER_AGENT_MAX: usize = 256;

/// Documents of one trust chain: every authority, a suspend for each key that can be suspended, and restores.
pub const TRUST_DOCUMENTS_MAX: usize = 24 * 1024;
/// The answer that carries them.
pub const TRUST_CHAIN_MAX_BYTES: usize = 64 * 1024 * 1024;
/// How long it may take, whatever the ttl: it is long, and comes once in a while.
pub const TRUST_CHAIN_TIMEOUT_MS: u64 = 10_000;

/// Connections that nothing was asked by for so long are closed. The one by which leases are renewed must not be.
pub const CONNECTION_IDLE_MS: u64 = 30_000;
/// How long a request for a lease goes on that nobody waits for any more.
pub const LEASE_TIMEOUT_MS: u64 = 10_000;

/// Signed documents that one lease request carries to a node that does not know them.
pub const DOCUMENTS_PER_REQUEST_MAX: usize = 16;
pub const RESPONSE_MAX_BYTES: usize = 16 * 1024 * 1024;
/// The body of an error answer.
pub const PROBLEM_MAX_BYTES: usize = 64 * 1024;

/// What [`deliver`](crate::Client::deliver) takes: a document with all its signatures, as JSON, is smaller.
pub const DELIVERY_MAX_BYTES: usize = 64 * 1024;
/// How often the folder of stops is looked at.
pub const STOP_FOLDER_LOOK_MS: u64 = 250;
/// Stops that are read in it: more than `tagout stop --copies` makes at once.
pub const STOP_FILES_MAX: usize = 1_024;
/// Names that are looked at in it.
pub const STOP_FOLDER_NAMES_MAX: usize = 8_192;

/// What a client keeps in its state folder.
pub const KEPT_MAX_BYTES: usize = 64 * 1024 * 1024;
/// What a lease changed is written this much later, several at once; what else stops is written at once.
pub const KEEP_AFTER_MS: u64 = 1_000;

/// Scopes of one subscription; more become their common parents.
pub const SUBSCRIPTION_SCOPES_MAX: usize = 32;
/// One event of the push stream: a document with all its signatures, as JSON, is smaller.
pub const EVENT_MAX_BYTES: usize = 64 * 1024;
/// A node sends a comment every 5 s; a stream as silent as this is dead.
pub const PUSH_SILENCE_MS: u64 = 15_000;
/// From the request to the answer's head.
pub const PUSH_CONNECT_MS: u64 = 5_000;
/// A node's end sends all its guards to the others: they come spread over this time.
pub const PUSH_BACK_OFF_FIRST_MS: u64 = 500;
pub const PUSH_BACK_OFF_MAX_MS: u64 = 5_000;
/// Guards made one after the other share one change of the subscription.
pub const SUBSCRIPTION_SETTLE_MS: u64 = 20;
/// Events that wait for the client's thread; beyond it the node sees back-pressure.
pub const PUSH_QUEUE_MAX: usize = 64;

pub const BACK_OFF_FIRST_MS: u64 = 50;
/// The client looks at its clocks at least this often.
pub const TICK_MS: u64 = 1_000;
/// A client that looked at nothing for so long stands still.
pub const STUCK_MS: u64 = 3_000;
/// The wall clock and the boot clock may drift apart by so much between two looks.
pub const CLOCK_JUMP_MS: u64 = 1_000;

/// A node may ask for confirmations and renewals to be spread over so long, and no longer.
pub const SPREAD_MAX_MS: u64 = 5_000;
pub const CONFIRM_ATTEMPTS_MAX: u32 = 5;
pub const CONFIRM_TIMEOUT_MS: u64 = 3_000;
/// Confirmations under way at once; a stop of the fleet has one for every agent.
pub const CONFIRMS_AT_ONCE_MAX: usize = 8;

/// How often a trip is sent until it waits for the next lease.
pub const TRIP_ATTEMPTS_MAX: u32 = 5;
/// A node answers once it is committed; sending it again, to another node, does no harm.
pub const TRIP_TIMEOUT_MS: u64 = 3_000;
/// Trips that are sent at once. Of those that no node has taken each agent has one at most.
pub const TRIPS_AT_ONCE_MAX: usize = 8;
