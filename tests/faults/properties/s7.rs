//! S7, automation only tightens: nothing that loosens is in the log on the word of automation.

use super::Run;
use crate::faults::history::{By, What};

pub fn check(run: &Run) -> Vec<String> {
    let log = run.log();
    let by_automation = run.record.commands.iter().filter(|(_, command)| command.by == By::Automation);
    let loosens = by_automation.filter(|(_, command)| !matches!(command.what, What::Lock { .. }));
    let entries = loosens.filter_map(|(digest, _)| log.get(digest));
    entries.map(|entry| format!("entry {} loosens, by automation", entry.index)).collect()
}
