//! Deliberate mistakes, one at a time: each breaks one property, which shows that the checker can fail.

/// A mistake that an implementation could make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// A guard counts its permission from the answer's arrival, not from the nonce.
    PermissionFromArrival,
    /// A batch goes on filling after its read began; or a follower answers from what it happens to have applied.
    ReadBeforeNonce,
    /// The guard's clock stands still while its host is suspended.
    ClockSleeps,
    /// A lease signs a state, but not the nonce that it is for.
    NonceNotBound,
    /// A guard stops new calls when its lease lapses, but never cuts calls in flight.
    LapseNeverCuts,
    /// A drain counts from the guard's first receipt alone.
    DrainFromReceipt,
    /// A lapsed lease still allows during the grace.
    AllowsInGrace,
    /// A release alone ends a halt.
    ReleaseAloneRestarts,
    /// The log takes a start before the release that it needs.
    StartBeforeRelease,
    /// Releases and starts name the scope and kind of lock, not its hash.
    NamesNoHash,
    /// What a lease shows replaces the locks that the guard holds.
    ViewReplacesLocks,
    /// A guard forgets a held lock because the node says so, without documents.
    ClearedUnproven,
    /// A verified restore moves the epoch at the guard, but is not latched there as the lock that it is.
    RestoreNotLatched,
    /// A lock goes away by itself.
    LockExpires,
    /// A new grant takes the locks of its scope away.
    GrantEndsLocks,
    /// A restore begins an epoch, but halts nothing.
    RestoreHaltsNothing,
    /// The nodes of before a restore still answer.
    OldServiceAnswers,
    /// A guard takes a smaller log than it knew.
    FloorsIgnored,
    /// An answer that is refused has already moved the floors.
    RefusedMovesFloors,
    /// A guard follows a node to an epoch that no restore document began.
    EpochUnproven,
    /// A grant counts in every epoch.
    GrantOfAnyEpoch,
    /// A guard does not verify the signatures on grants.
    GrantUnverified,
    /// The newest lock decides, instead of the minimum of all.
    NewestLockDecides,
    /// A view shows only the first lock by kind, instead of the strongest of each kind.
    OneLockShown,
}
