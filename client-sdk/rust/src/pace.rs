//! How often a client asks, how long it waits for an answer and for the next try: all of it parts of the ttl, so that a lease
//! does not lapse while somebody could still renew it. Pure: no clock, no randomness.

use std::ops::RangeInclusive;
use std::time::Duration;

use tagout_proto::limits::{TTL_MAX_MS, TTL_MIN_MS};

use crate::limits::{BACK_OFF_FIRST_MS, CONNECTION_IDLE_MS};

const RENEWALS: u32 = 3;
const PATIENCE_PART: u32 = 4;
const BACK_OFF_PART: u32 = 5;

// The longest wait and the answer after it take less than half of the ttl: a guard that missed one renewal has the next one
// before its lease ends, and one without a lease comes back within half a ttl of the service.
const _: () = assert!(2 * (PATIENCE_PART + BACK_OFF_PART) < PATIENCE_PART * BACK_OFF_PART);
const _: () = assert!(CONNECTION_IDLE_MS > TTL_MAX_MS / RENEWALS as u64);
const _: () = assert!(BACK_OFF_FIRST_MS * BACK_OFF_PART as u64 <= TTL_MIN_MS);

/// The pace of one client, by the newest lease's time to live.
#[derive(Clone, Copy)]
pub(crate) struct Pace(Duration);

impl Pace {
    pub(crate) fn of(ttl_ms: u64) -> Self {
        Self(Duration::from_millis(ttl_ms.max(TTL_MIN_MS)))
    }

    /// From one round of renewals to the next: any time of these.
    pub(crate) fn renew_after(self) -> RangeInclusive<Duration> {
        let longest = self.0 / RENEWALS;
        longest * 4 / 5..=longest
    }

    /// How long a node may take to answer: never all that is `left` of the lease, so that another one can be asked too.
    pub(crate) fn patience(self, left: Duration) -> Duration {
        let longest = self.0 / PATIENCE_PART;
        if left.is_zero() { longest } else { (left / 2).clamp(longest / 4, longest) }
    }

    /// How long to wait after `failures` in a row, with so many nodes: any time of these. Not at all as long as there is a
    /// node that was not tried, then ever longer, or what the node wishes; but as long as a lease is alive, always so short
    /// that several more attempts fit into it.
    pub(crate) fn back_off(
        self,
        failures: u32,
        nodes: usize,
        wish: Option<Duration>,
        left: Duration,
    ) -> RangeInclusive<Duration> {
        let rounds = failures / u32::try_from(nodes).unwrap_or(u32::MAX).max(1);
        if rounds == 0 {
            return Duration::ZERO..=Duration::ZERO;
        }
        let (first, most) = (Duration::from_millis(BACK_OFF_FIRST_MS), self.0 / BACK_OFF_PART);
        let most = if left.is_zero() { most } else { (left / 8).max(first).min(most) };
        let grown = (first * (1 << rounds.min(16))).min(most);
        let wish = wish.unwrap_or_default().min(most);
        // Whoever is told the same time to wait comes back spread all the same.
        let longest = (wish + grown).min(most);
        wish.min(longest - grown.min(longest / 2))..=longest
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tagout_proto::limits::NODES_MAX;

    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    proptest! {
        #[test]
        fn s3_a_wait_and_the_answer_after_it_fit_into_half_of_the_ttl(
            ttl_ms in TTL_MIN_MS..=TTL_MAX_MS,
            nodes in 1..=NODES_MAX,
            failures in 0..200_u32,
            wish_ms in proptest::option::of(0..120_000_u64),
            left_ms in 0..TTL_MAX_MS,
        ) {
            let (pace, left) = (Pace::of(ttl_ms), ms(left_ms.min(ttl_ms)));
            let wait = pace.back_off(failures, nodes, wish_ms.map(ms), left);
            prop_assert!(wait.start() <= wait.end());
            prop_assert!(*wait.end() + pace.patience(left) < ms(ttl_ms) / 2, "{wait:?}");
            if wish_ms.is_none() {
                prop_assert!(wait.start().is_zero(), "full jitter: {wait:?}");
            }
            let tried_all = failures as usize >= nodes;
            prop_assert_eq!(wait.end().is_zero(), !tried_all);
            prop_assert!(!tried_all || *wait.start() < *wait.end(), "nobody comes back together: {wait:?}");
        }

        /// Every node but one says nothing, or that it cannot answer, from the moment of a lease on; that one is asked last.
        #[test]
        fn a_lease_is_renewed_in_time_though_all_nodes_but_a_quorum_fail(
            ttl_ms in TTL_MIN_MS..=TTL_MAX_MS,
            nodes in 1..=NODES_MAX,
            silent in proptest::collection::vec(any::<bool>(), NODES_MAX),
        ) {
            let (pace, ttl) = (Pace::of(ttl_ms), ms(ttl_ms));
            let mut at = *pace.renew_after().end();
            let failing = (nodes - 1) / 2;
            for (failures, silent) in silent.iter().take(failing).enumerate() {
                let left = ttl - at;
                at += if *silent { pace.patience(left) } else { left / 100 };
                prop_assert!(at < ttl);
                at += *pace.back_off(failures as u32 + 1, nodes, Some(ms(1_000)), ttl - at).end();
            }
            prop_assert!(at < ttl, "asked {:?} after its lease had ended", at - ttl);
        }
    }

    #[test]
    fn a_wish_is_heard_as_far_as_the_ttl_lets_it_be() {
        let pace = Pace::of(10_000);
        assert_eq!(pace.back_off(3, 3, Some(ms(1_000)), Duration::ZERO), ms(1_000)..=ms(1_100));
        assert_eq!(pace.back_off(3, 3, Some(ms(9_000)), Duration::ZERO), ms(1_900)..=ms(2_000));
        assert_eq!(pace.back_off(300, 3, Some(ms(9_000)), Duration::ZERO), ms(1_000)..=ms(2_000));
        assert_eq!(pace.back_off(300, 3, Some(ms(9_000)), ms(1_600)), ms(100)..=ms(200));
    }
}
