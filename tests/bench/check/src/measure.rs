//! All sides in turns, in an order that is drawn anew for every round, so that noise meets each of them.

use std::hint::{black_box, spin_loop};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use anyhow::{Context, ensure};

use crate::measured::Measured;
use crate::sides::Side;
use crate::ticks::{self, Ticks};

/// A turn lasts about this long, far below what the scheduler gives at once.
const TURN_NS: f64 = 200_000.0;
/// Calls that make a side's code and data warm, and tell how long one takes.
const FIRST_CALLS: u32 = 1_000;
/// Twice what a large last-level cache has for one core complex.
const EVICTING_BYTES: usize = 64 << 20;
const CACHE_LINE: usize = 64;
/// Two turns shared an object if they ran side by side for this part of the longer one. Contention is uneven: much more
/// would leave out the turns that had most of it.
const SIDE_BY_SIDE: f64 = 0.5;

pub struct Measure {
    ticks: Ticks,
    sides: Vec<Side>,
    /// How many calls a turn of each side has.
    calls: Vec<u32>,
    evicting: Vec<u8>,
}

/// When something began and ended.
struct Span(u64, u64);

impl Measure {
    pub fn new(ticks: Ticks, sides: Vec<Side>) -> anyhow::Result<Self> {
        let calls = sides.iter().map(|side| {
            ask(side, FIRST_CALLS)?;
            let ns = ticks.ns(ask(side, FIRST_CALLS)?.ticks()) / f64::from(FIRST_CALLS);
            Ok((TURN_NS / ns.max(0.1)).clamp(1.0, 1e6) as u32)
        });
        let calls = calls.collect::<anyhow::Result<_>>()?;
        // Written, so that every page is one of its own.
        Ok(Self { ticks, sides, calls, evicting: vec![1; EVICTING_BYTES] })
    }

    pub fn run(&self, rounds: usize, cold_rounds: usize) -> anyhow::Result<Vec<Measured>> {
        let mut measured: Vec<_> = self.sides.iter().map(empty).collect();
        let mut order: Vec<_> = (0..self.sides.len()).collect();
        for _ in 0..rounds {
            fastrand::shuffle(&mut order);
            for &n in &order {
                self.warm(n, &mut measured[n])?;
            }
        }
        for _ in 0..cold_rounds {
            fastrand::shuffle(&mut order);
            for &n in &order {
                self.cold(n, &mut measured[n])?;
            }
        }
        Ok(measured)
    }

    fn warm(&self, n: usize, measured: &mut Measured) -> anyhow::Result<()> {
        let (side, calls) = (&self.sides[n], self.calls[n]);
        let ns = |span: &Span| self.ticks.ns(span.ticks()) / f64::from(calls);
        // The turn before was another side's.
        ask(side, calls / 16 + 1)?;
        measured.warm.push(ns(&ask(side, calls)?));
        let spans = both(|| drop(ask(side, calls / 16 + 1)), || ask(side, calls))?;
        if side_by_side(&spans) {
            measured.warm_shared.extend(spans.iter().map(ns));
        }
        Ok(())
    }

    fn cold(&self, n: usize, measured: &mut Measured) -> anyhow::Result<()> {
        let side = &self.sides[n];
        self.evict()?;
        measured.cold.push(self.ticks.ns(ask(side, 1)?.ticks()));
        let spans = both(|| drop(self.evict()), || ask(side, 1))?;
        measured.cold_shared.extend(spans.iter().map(|span| self.ticks.ns(span.ticks())));
        Ok(())
    }

    /// Fills this core's caches, and the shared one, with something else; the timer and the loop, which all sides have, are
    /// warm again afterwards.
    fn evict(&self) -> anyhow::Result<()> {
        black_box(self.evicting.iter().step_by(CACHE_LINE).fold(0u8, |sum, byte| sum.wrapping_add(*byte)));
        ask(&self.sides[0], 1).map(drop)
    }
}

impl Span {
    fn ticks(&self) -> u64 {
        self.1.saturating_sub(self.0)
    }
}

/// Asks a side, and holds it to its answer.
fn ask(side: &Side, calls: u32) -> anyhow::Result<Span> {
    let began = ticks::now();
    let allowed = (side.ask)(calls);
    let span = Span(began, ticks::now());
    ensure!(allowed == calls, "{} said yes {allowed} times of {calls}", side.name);
    Ok(span)
}

/// What two threads measure at once, each after its own preparation.
fn both(
    prepare: impl Fn() + Sync,
    measure: impl Fn() -> anyhow::Result<Span> + Sync,
) -> anyhow::Result<[Span; 2]> {
    let prepared = AtomicU32::new(0);
    let one = || {
        prepare();
        prepared.fetch_add(1, Ordering::AcqRel);
        while prepared.load(Ordering::Acquire) < 2 {
            spin_loop();
        }
        measure()
    };
    thread::scope(|scope| {
        let other = scope.spawn(one);
        let (here, there) = (one(), other.join());
        Ok([here?, there.ok().context("the other thread panicked")??])
    })
}

fn side_by_side([a, b]: &[Span; 2]) -> bool {
    let together = a.1.min(b.1).saturating_sub(a.0.max(b.0));
    together as f64 >= SIDE_BY_SIDE * a.ticks().max(b.ticks()) as f64
}

fn empty(side: &Side) -> Measured {
    Measured {
        side: side.name.into(),
        role: side.role,
        decides: side.decides.into(),
        warm: Vec::new(),
        warm_shared: Vec::new(),
        cold: Vec::new(),
        cold_shared: Vec::new(),
    }
}
