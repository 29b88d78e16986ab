//! What an agent's calls and tokens were in the last minute, so that no minute has more of them than its share. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use tagout_proto::rule::CallLimits;

const NS_PER_S: u64 = 1_000_000_000;
/// What was spent in one second counts in it and in the 60 after: so no 60 s anywhere hold more than the limit.
const COUNTS_S: u64 = 61;

#[derive(Default)]
pub(crate) struct Throttle {
    calls: Minute,
    tokens: Minute,
}

/// What does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full {
    /// When it does; `None` is never.
    pub(crate) retry_after: Option<Duration>,
}

/// What was spent, by second: at most [`COUNTS_S`] of them.
#[derive(Default)]
struct Minute {
    spent: VecDeque<(u64, u64)>,
    in_all: u64,
}

impl Throttle {
    /// Counts both, or neither.
    pub(crate) fn spend(
        &mut self,
        calls: u64,
        tokens: u64,
        share: CallLimits,
        now_ns: u64,
    ) -> Result<(), Full> {
        let now_s = now_ns / NS_PER_S;
        let free_s = |minute: &mut Minute, amount, limit: Option<u64>| match limit {
            Some(limit) => minute.free_s(amount, limit, now_s),
            None => Some(now_s),
        };
        let calls_s = free_s(&mut self.calls, calls, share.calls_per_minute);
        let tokens_s = free_s(&mut self.tokens, tokens, share.tokens_per_minute);
        match calls_s.zip(tokens_s).map(|(calls_s, tokens_s)| calls_s.max(tokens_s)) {
            Some(at_s) if at_s <= now_s => {
                self.calls.add(calls, now_s);
                self.tokens.add(tokens, now_s);
                Ok(())
            }
            Some(at_s) => Err(Full {
                retry_after: Some(Duration::from_nanos((at_s * NS_PER_S).saturating_sub(now_ns))),
            }),
            None => Err(Full { retry_after: None }),
        }
    }
}

impl Minute {
    /// The second from which on `amount` fits; `None` if it never does.
    fn free_s(&mut self, amount: u64, limit: u64, now_s: u64) -> Option<u64> {
        self.forget(now_s);
        let room = limit.checked_sub(amount)?;
        let mut left = self.in_all;
        let mut at_s = now_s;
        for (second, spent) in &self.spent {
            if left <= room {
                break;
            }
            left -= spent;
            at_s = second + COUNTS_S;
        }
        Some(at_s)
    }

    fn add(&mut self, amount: u64, now_s: u64) {
        self.forget(now_s);
        self.in_all = self.in_all.saturating_add(amount);
        match self.spent.back_mut() {
            Some((second, spent)) if *second == now_s => *spent = spent.saturating_add(amount),
            _ => self.spent.push_back((now_s, amount)),
        }
    }

    fn forget(&mut self, now_s: u64) {
        while let Some((_, spent)) = self.spent.pop_front_if(|(second, _)| *second + COUNTS_S <= now_s) {
            self.in_all = self.in_all.saturating_sub(spent);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const S: u64 = NS_PER_S;

    fn limits(calls_per_minute: Option<u64>, tokens_per_minute: Option<u64>) -> CallLimits {
        CallLimits { calls_per_minute, tokens_per_minute }
    }

    fn after(at_ns: u64, now_ns: u64) -> Result<(), Full> {
        Err(Full { retry_after: Some(Duration::from_nanos(at_ns - now_ns)) })
    }

    #[test]
    fn what_is_spent_comes_back_after_a_minute_and_the_refusal_says_when() {
        let (mut throttle, two) = (Throttle::default(), limits(Some(2), None));
        assert_eq!(throttle.spend(1, 9, two, 100 * S + 7), Ok(()));
        assert_eq!(throttle.spend(1, 9, two, 130 * S), Ok(()));
        assert_eq!(throttle.spend(1, 0, two, 140 * S), after(161 * S, 140 * S));
        assert_eq!(throttle.spend(2, 0, two, 140 * S), after(191 * S, 140 * S));
        assert_eq!(throttle.spend(1, 0, two, 161 * S), Ok(()));
        assert_eq!(throttle.spend(0, 1, two, 161 * S), Ok(()), "only what is limited is refused");
        assert_eq!(throttle.spend(3, 0, two, 900 * S), Err(Full { retry_after: None }));
    }

    #[test]
    fn both_are_counted_or_neither() {
        let (mut throttle, both) = (Throttle::default(), limits(Some(9), Some(100)));
        assert_eq!(throttle.spend(1, 80, both, S), Ok(()));
        assert_eq!(throttle.spend(1, 30, both, 2 * S), after(62 * S, 2 * S));
        assert_eq!((throttle.calls.in_all, throttle.tokens.in_all), (1, 80));
        assert_eq!(throttle.spend(1, 0, limits(Some(0), None), 2 * S), Err(Full { retry_after: None }));
    }

    proptest! {
        #[test]
        fn s7_no_minute_has_more_than_the_share(
            steps in proptest::collection::vec((0..20 * S, 0..4u64), 1..200), limit in 0..12u64
        ) {
            let (mut throttle, mut now_ns, mut spent) = (Throttle::default(), S, Vec::new());
            for (pause_ns, amount) in steps {
                now_ns += pause_ns;
                match throttle.spend(amount, 0, limits(Some(limit), None), now_ns) {
                    Ok(()) => spent.push((now_ns, amount)),
                    Err(Full { retry_after: None }) => prop_assert!(amount > limit),
                    Err(Full { retry_after: Some(after) }) => {
                        let at_ns = now_ns + u64::try_from(after.as_nanos()).unwrap();
                        let mut later = Throttle::default();
                        spent.iter().for_each(|(at_ns, amount)| later.calls.add(*amount, at_ns / S));
                        prop_assert_eq!(later.spend(amount, 0, limits(Some(limit), None), at_ns), Ok(()));
                    }
                }
                let minute = spent.iter().filter(|(at_ns, _)| at_ns + 60 * S > now_ns);
                prop_assert!(minute.map(|(_, amount)| amount).sum::<u64>() <= limit);
                prop_assert!(throttle.calls.spent.len() as u64 <= COUNTS_S);
            }
        }
    }
}
