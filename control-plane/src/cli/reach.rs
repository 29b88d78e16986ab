//! Step ⑨ of a stop, as its operator sees it: which instances confirmed, after how long, and which are bounded instead.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use tagout_proto::digest::Digest;
use tagout_proto::scope::Scope;
use tagout_proto::wire::{InstanceReach, ReachState, StopPath, StopReach};

use super::failure::Failure;
use super::out::{Ink, Out, count, span};
use super::session::Session;

/// Instances that are shown one by one; of more only the number is of use.
const SHOWN_MAX: usize = 100;
/// The outcome is written once all is settled; a node that is slow with it is not waited for.
const OUTCOME_PATIENCE: Duration = Duration::from_secs(10);

/// Follows the stop until it is settled and its outcome is in the log.
pub fn follow(session: &Session<'_>, lock: Digest) -> Result<StopReach, Failure> {
    let mut shown = Shown::new(session.out);
    let mut reach = session.client.reach(&lock, None)?;
    let mut settled_at = None;
    loop {
        shown.update(&reach);
        if reach.settled {
            let since: &mut Instant = settled_at.get_or_insert_with(Instant::now);
            if reach.outcome_index.is_some() || since.elapsed() > OUTCOME_PATIENCE {
                break;
            }
        }
        let asked = Instant::now();
        reach = session.client.reach(&lock, Some(reach.version))?;
        // A node that answers at once without news must not be asked in a tight circle.
        std::thread::sleep(Duration::from_millis(20).saturating_sub(asked.elapsed()));
    }
    shown.end();
    session.out.line(summary(&reach));
    Ok(reach)
}

/// What has been shown so far: each instance once, when it is done.
struct Shown<'a> {
    out: &'a Out,
    bar: Option<ProgressBar>,
    done: BTreeMap<(Scope, String), bool>,
}

impl<'a> Shown<'a> {
    fn new(out: &'a Out) -> Self {
        Self { out, bar: out.live().then(bar), done: BTreeMap::new() }
    }

    fn update(&mut self, reach: &StopReach) {
        for instance in &reach.instances {
            let key = (instance.agent.clone(), instance.instance.clone());
            // A bounded instance may still confirm: that is news.
            let confirmed = match instance.state {
                ReachState::Waiting { .. } => continue,
                ReachState::Confirmed { .. } => true,
                ReachState::Bounded { .. } => false,
            };
            if self.done.insert(key, confirmed) == Some(confirmed) || self.done.len() > SHOWN_MAX {
                continue;
            }
            let text = line(self.out, instance);
            match &self.bar {
                Some(bar) => bar.suspend(|| self.out.line(text)),
                None => self.out.line(text),
            }
        }
        if let Some(bar) = &self.bar {
            bar.set_length(reach.instances.len() as u64);
            bar.set_position(self.done.len() as u64);
            let left = reach.bounded_after_ms.saturating_sub(reach.age_ms);
            bar.set_message(format!("bounded in {}", span(left)));
        }
    }

    fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template("  {bar:30} {pos}/{len} instances  {msg}");
    ProgressBar::new(0).with_style(style.expect("the template is ours"))
}

fn line(out: &Out, instance: &InstanceReach) -> String {
    let InstanceReach { agent, instance: name, state } = instance;
    let said = match state {
        ReachState::Waiting { .. } => "waiting".into(),
        ReachState::Confirmed { after_ms, calls_cut, by, .. } => {
            let by = match by {
                StopPath::Push => "push",
                StopPath::Lease => "lease",
                StopPath::File => "file",
                StopPath::Deliver => "delivery",
            };
            let cut =
                if *calls_cut > 0 { format!(", {} cut", count(*calls_cut, "call")) } else { String::new() };
            format!("{} after {after_ms} ms by {by}{cut}", out.ink(Ink::Green, "confirmed"))
        }
        ReachState::Bounded { connected: false } => {
            let bounded = out.ink(Ink::Yellow, "bounded");
            format!("{bounded}: silent, but no lease of it is alive any more")
        }
        ReachState::Bounded { connected: true } => {
            let bounded = out.ink(Ink::Red, "connected and silent");
            format!("{bounded}: look at it; no lease of it is alive any more")
        }
    };
    format!("  {agent} {name} {said}")
}

/// By when nothing goes on any more, also where this node knows of nothing. A pause cuts no call.
fn bounds(reach: &StopReach) -> String {
    let begins = format!("no new call begins anywhere after {}", span(reach.bounded_after_ms));
    format!("{begins}{}", cut_by(reach))
}

fn cut_by(reach: &StopReach) -> String {
    reach
        .calls_bounded_after_ms
        .map_or_else(String::new, |ms| format!(", calls under way cut by {}", span(ms)))
}

/// Where most of the time went of a confirmation that was here `after_ms` after the commit.
fn slowest_layer(after_ms: u64, closed_us: u64, cut_us: u64) -> &'static str {
    let ending_us = cut_us.saturating_sub(closed_us);
    let on_the_way_us = (after_ms * 1000).saturating_sub(cut_us);
    let layers = [
        (on_the_way_us, "on the way there and back"),
        (closed_us, "in closing the guard"),
        (ending_us, "in ending its calls"),
    ];
    layers.into_iter().max_by_key(|(us, _)| *us).map_or("", |(_, layer)| layer)
}

fn summary(reach: &StopReach) -> String {
    let (mut confirmed, mut bounded, mut silent, mut slowest, mut cut) = (0, 0, 0, None, 0);
    for instance in &reach.instances {
        match instance.state {
            ReachState::Waiting { .. } => {}
            ReachState::Confirmed { after_ms, closed_us, cut_us, calls_cut, .. } => {
                confirmed += 1;
                cut += calls_cut;
                slowest = slowest.max(Some((after_ms, slowest_layer(after_ms, closed_us, cut_us))));
            }
            ReachState::Bounded { connected } => {
                bounded += 1;
                silent += u64::from(connected);
            }
        }
    }
    let mut text = match reach.instances.len() as u64 {
        0 => format!("settled: no instance known to this node; {}", bounds(reach)),
        all => format!("settled: {confirmed} of {} confirmed", count(all, "instance")),
    };
    if let Some((ms, layer)) = slowest {
        text.push_str(&format!(", the slowest after {ms} ms, most of it {layer}"));
    }
    if cut > 0 {
        text.push_str(&format!(", {} cut", count(cut, "call")));
    }
    if bounded > 0 {
        text.push_str(&format!(
            "; {bounded} bounded: silent, and no lease of it is alive any more{}",
            cut_by(reach)
        ));
    }
    if silent > 0 {
        text.push_str(&format!("; {silent} of them connected and silent: look at them"));
    }
    match reach.outcome_index {
        Some(index) => format!("{text}; outcome at entry {index}"),
        None => format!("{text}; the outcome is not in the log yet"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_says_who_was_slowest_and_who_stayed_silent() {
        let scope = Scope::parse("demo/a").unwrap();
        let instance =
            |name: &str, state| InstanceReach { agent: scope.clone(), instance: name.into(), state };
        let confirmed = |after_ms, calls_cut| ReachState::Confirmed {
            after_ms,
            closed_us: 9,
            cut_us: 9 + calls_cut * 3_000,
            calls_cut,
            by: StopPath::Push,
        };
        let reach = StopReach {
            lock: Digest::default(),
            version: 4,
            age_ms: 10_000,
            bounded_after_ms: 10_000,
            calls_bounded_after_ms: Some(30_000),
            instances: vec![
                instance("x", confirmed(3, 0)),
                instance("y", confirmed(8, 2)),
                instance("z", ReachState::Bounded { connected: true }),
            ],
            settled: true,
            outcome_index: Some(14),
        };
        assert_eq!(
            summary(&reach),
            "settled: 2 of 3 instances confirmed, the slowest after 8 ms, most of it in ending its calls, 2 calls cut; 1 \
             bounded: silent, and no lease of it is alive any more, calls under way cut by 30s; 1 of them connected and \
             silent: look at them; outcome at entry 14"
        );
        assert_eq!(
            summary(&StopReach { instances: vec![], ..reach.clone() }),
            "settled: no instance known to this node; no new call begins anywhere after 10s, calls under way cut \
             by 30s; outcome at entry 14"
        );
        let pause = StopReach { instances: vec![], calls_bounded_after_ms: None, ..reach };
        assert_eq!(bounds(&pause), "no new call begins anywhere after 10s");
    }
}
