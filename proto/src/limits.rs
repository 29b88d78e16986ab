//! Every bound of the formats, in one place. Units are in the names; sizes are bytes on the wire.

/// A stop must stay small: the disk reserve of S10 is counted in stops.
pub const STOP_MAX_BYTES: usize = 4 * 1024;
/// Any other command, the authority document included.
pub const COMMAND_MAX_BYTES: usize = 32 * 1024;
/// Signatures beside one document (C2SP signed-note asks verifiers for 16 as well).
pub const SIGNATURES_MAX: usize = 16;
/// One armored SSHSIG; an Ed25519 one has about 300 bytes, a FIDO2 one about 400.
pub const SIGNATURE_MAX_BYTES: usize = 1024;
/// The application of a FIDO2 key: `ssh:`, or `ssh:` and a name.
pub const APPLICATION_MAX_BYTES: usize = 64;
/// How deep JSON may nest; the deepest document of ours has 4 levels.
pub const JSON_DEPTH_MAX: usize = 8;

pub const SCOPE_SEGMENTS_MAX: usize = 8;
pub const SCOPE_SEGMENT_MAX_BYTES: usize = 64;

pub const COMMAND_ID_MAX_BYTES: usize = 128;
pub const REASON_MAX_BYTES: usize = 1024;
pub const CASE_MAX_BYTES: usize = 128;
pub const NAME_MAX_BYTES: usize = 64;
/// The name of a process that holds a guard, which is printable ASCII without spaces.
pub const INSTANCE_MAX_BYTES: usize = 128;

/// Lock ids that one release or start may list.
pub const LOCK_IDS_MAX: usize = 400;
/// Locks that one release or start may name by their root.
pub const BULK_LOCKS_MAX: u64 = 100_000;
/// Grants and enrolments that one revoke may list.
pub const GRANT_IDS_MAX: usize = 400;
/// Keys that one suspend may list.
pub const KEYS_PER_SUSPEND_MAX: usize = 64;
/// Keys that may be suspended in all, the life of a deployment long.
pub const SUSPENDED_KEYS_MAX: usize = 16 * 1024;
/// Locks and grants that documents may name before they arrive.
pub const REMEMBERED_MAX: usize = 100_000;
/// Releases, starts or revokes that are remembered for one of them.
pub const REMEMBERED_PER_ID_MAX: usize = 8;
/// Classes of essential calls that one grant may name.
pub const ESSENTIAL_CLASSES_MAX: usize = 16;
/// The largest limit of calls or tokens per minute.
pub const CALL_LIMIT_MAX: u64 = 1_000_000_000_000;
/// Sub-scopes that may be started one by one, in waves, before the lock's whole scope is.
pub const WAVES_PER_LOCK_MAX: usize = 1024;
/// Unexpired grants kept per scope; a view carries all that cover an agent.
pub const GRANTS_PER_SCOPE_MAX: usize = 8;
/// How long a proposal may be signed.
pub const PROPOSAL_TTL_MS: u64 = 60 * 60 * 1000;
/// Proposals that may be open at once.
pub const PROPOSALS_MAX: usize = 64;
/// Proposals that may be refused in all, the life of a deployment long.
pub const REFUSED_MAX: usize = 16 * 1024;
/// Instances that one drill lists, which are the first that the outcome does; its counts hold for all.
pub const DRILL_INSTANCES_MAX: usize = 64;
/// Scopes whose newest drill is known; the log has all.
pub const DRILLED_SCOPES_MAX: usize = 64;
/// A drain may last this long at most.
pub const DRAIN_MAX_MS: u64 = 60 * 60 * 1000;

/// 9999-12-31T23:59:59.999Z, the last instant that RFC 3339 can write.
pub const INSTANT_MAX_MS: u64 = 253_402_300_799_999;

/// One log entry: the length prefix of an entry bundle has 16 bits (C2SP tlog-tiles).
pub const ENTRY_MAX_BYTES: usize = 65_535;

/// Versions of the authority: guards keep them all.
pub const AUTHORITY_VERSIONS_MAX: u64 = 4096;
/// Keys that one authority may retire, and the grants that each of them goes on to sign.
pub const RETIRED_KEYS_MAX: usize = 64;
pub const PRINCIPALS_MAX: usize = 128;
pub const KEYS_PER_PRINCIPAL_MAX: usize = 8;
pub const ROLES_MAX: usize = 64;
pub const ROLE_ACTIONS_MAX: usize = 11;
pub const NODES_MAX: usize = 9;
/// RFC 1035, section 2.3.4, as the name is written.
pub const DNS_NAME_MAX_BYTES: usize = 253;
pub const DNS_LABEL_MAX_BYTES: usize = 63;
/// A node's address: a name, a colon and a port of at most 5 digits.
pub const ADDRESS_MAX_BYTES: usize = DNS_NAME_MAX_BYTES + 6;
pub const ROOT_KEYS_MAX: usize = 16;

/// How long a lease lets a guard allow calls, from the making of its nonce.
pub const TTL_MIN_MS: u64 = 2_000;
pub const TTL_DEFAULT_MS: u64 = 10_000;
pub const TTL_MAX_MS: u64 = 60_000;
/// How long calls in flight may outlive a lapsed lease.
pub const LAPSE_GRACE_DEFAULT_MS: u64 = 20_000;
pub const LAPSE_GRACE_MAX_MS: u64 = 120_000;

/// Agents in one lease request, and locks it may ask about.
pub const AGENTS_PER_LEASE_MAX: usize = 1024;
pub const KNOWN_PER_LEASE_MAX: usize = 256;
/// Lease requests answered with one read and one signature.
pub const LEASE_BATCH_MAX: usize = 1024;
