//! What `/metrics` says, and what it means. Names follow Prometheus: base units, `_total` for what only grows.

use std::time::Duration;

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram, gauge};

use tagout_proto::ledger::{LatestDrill, Ledger};
use tagout_proto::scope::Scope;

use crate::access::Access;
use crate::clock;
use crate::due::{Ending, HOUR_MS, WARNED_BEFORE_H, What};
use crate::service::Service;

/// The text beside each metric.
pub fn describe() {
    gauge!("tagout_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    describe_gauge!("tagout_build_info", "1, with the version of this build");

    describe_counter!("tagout_commands_total", "Commands by action and outcome code");
    describe_counter!("tagout_webhooks_total", "Requests of security platforms by webhook and outcome code");
    describe_counter!("tagout_openc2_total", "Requests of OpenC2 producers by producer and outcome code");
    describe_histogram!(
        "tagout_commit_seconds",
        Unit::Seconds,
        "From a command's arrival to its answer, if it took effect"
    );
    describe_histogram!("tagout_apply_seconds", Unit::Seconds, "Applying one committed entry to the state");
    describe_gauge!("tagout_locks_in_force", "Locks that are not released, or not started yet");

    describe_gauge!(
        "tagout_grants_ending",
        "Grants that end within so many hours, with none of the same scope and terms to follow them"
    );
    describe_gauge!(
        "tagout_enrolments_ending",
        "Enrolments that end within so many hours, with none of the same token to follow them"
    );
    describe_gauge!("tagout_api_tokens_ending", "API tokens of this node that end within so many hours");

    describe_gauge!("tagout_log_entries", "Entries of the audit log that this node has applied");
    describe_gauge!("tagout_log_checkpointed_entries", "Entries that its newest signed checkpoint covers");
    describe_counter!(
        "tagout_security_log_dropped_total",
        "Refused attempts that the security log had no room for"
    );

    describe_histogram!("tagout_lease_seconds", Unit::Seconds, "From a lease request to its answer");
    describe_histogram!("tagout_lease_batch_size", "Lease requests that one read and one signature answer");
    describe_histogram!(
        "tagout_read_barrier_seconds",
        Unit::Seconds,
        "The linearizable read of a batch of leases: a quorum has answered, and this node has applied as far"
    );
    describe_gauge!("tagout_guards_listening", "Guards' processes that are connected: open event streams");
    describe_gauge!(
        "tagout_instances",
        "Pairs of agent and process that asked this node for a lease of late"
    );
    describe_gauge!(
        "tagout_instances_lapsed",
        "Those of them that have not asked this node for longer than a lease lives: ended, cut off, or at another node"
    );
    describe_gauge!(
        "tagout_least_lease_left_seconds",
        Unit::Seconds,
        "What is left of the oldest lease of the others; they renew with two thirds of the ttl left, the ttl while there is none"
    );

    describe_histogram!(
        "tagout_fsync_seconds",
        Unit::Seconds,
        "One commit of the Raft log's writer to its disk, a durable one"
    );
    describe_histogram!("tagout_commit_batch_entries", "Entries that one such commit made durable");
    describe_histogram!(
        "tagout_checkpoint_seconds",
        Unit::Seconds,
        "One checkpoint of the audit log: its newest bundle and the signed note, durable"
    );
    describe_gauge!(
        "tagout_log_missing_entries",
        "Entries of the audit log that this node has still to get from others"
    );
    describe_gauge!("tagout_log_diverged", "1 while nodes show different logs of one size");
    describe_gauge!("tagout_disk_state", "1 for the state that the disk is in, 0 for the others");
    describe_gauge!("tagout_disk_free_bytes", Unit::Bytes, "What is free on the disk, besides the reserve");
    describe_gauge!("tagout_reserve_bytes", Unit::Bytes, "What the disk reserve holds");
    describe_gauge!("tagout_reserve_target_bytes", Unit::Bytes, "What the disk reserve is to hold");
    describe_gauge!("tagout_stops_left", "Stops of the largest size that the disk still takes");
    describe_gauge!("tagout_stops_pending", "Stops that are kept here and in no log yet");
    describe_counter!(
        "tagout_pending_refused_total",
        "Pending stops that were refused in the end and are in force nowhere but where they were pushed"
    );
    describe_counter!("tagout_notifications_sent_total", "Notifications that a receiver has taken");
    describe_counter!(
        "tagout_notifications_failed_total",
        "Attempts to notify a receiver that it did not take, tried again or not"
    );
    describe_counter!(
        "tagout_notifications_dropped_total",
        "Events that no log has and that too many others were waiting before"
    );
    describe_gauge!(
        "tagout_notifications_behind_entries",
        "Entries of the log that a receiver was not told of yet"
    );
    describe_gauge!(
        "tagout_notifications_dead_letters",
        "Notifications that were given up and can be replayed"
    );
    describe_gauge!(
        "tagout_notifications_dead_letters_dropped",
        "Dead letters that there was no room for; those of entries can be replayed by their ids"
    );
    describe_gauge!(
        "tagout_notifications_disabled",
        "1 while a receiver has said that it wants no more (410)"
    );
    describe_counter!(
        "tagout_not_enrolled_total",
        "Requests of guards with no token that is enrolled for what they asked"
    );
    describe_counter!(
        "tagout_access_refused_total",
        "Requests to read, and commands, with no identity that is good for them, by outcome code"
    );
    describe_gauge!(
        "tagout_access_refused_file",
        "1 while the access file is not usable and an older one stays in force"
    );
    describe_counter!("tagout_issuer_fetches_total", "Fetches of the OIDC issuer's keys, by result");
    describe_gauge!("tagout_issuer_keys", "Keys of the OIDC issuer that tokens are verified by");
    describe_gauge!("tagout_admission_waiting", "Commands that wait to be verified");
    describe_counter!(
        "tagout_admission_refused_total",
        "Requests that were turned away because too many were waiting"
    );
    describe_gauge!("tagout_bodies_under_way_bytes", Unit::Bytes, "Requests' bodies that are being received");
    describe_counter!("tagout_peers_refused_total", "Connections to the peers' port that were no peer's");

    describe_gauge!("tagout_raft_term", "The term of consensus: it grows with every election");
    describe_gauge!("tagout_raft_leader", "1 on the node that leads");
    describe_gauge!("tagout_raft_leader_known", "1 while this node knows who leads");
    describe_gauge!("tagout_raft_voters", "Nodes that vote, as this node knows it");
    describe_gauge!("tagout_raft_last_log_index", "The newest entry of Raft's own log on this node");
    describe_gauge!("tagout_raft_committed_index", "The newest one of them that a quorum has");
    describe_gauge!("tagout_raft_applied_index", "The newest one of them that is applied here");

    describe_gauge!("tagout_connections_open", "TLS connections");
    describe_counter!("tagout_connections_refused_total", "Connections that were one too many");
    describe_counter!(
        "tagout_accept_errors_total",
        "Connections that could not be accepted, for want of files or memory"
    );
    describe_counter!("tagout_handshakes_failed_total", "TLS handshakes that were refused or took too long");

    describe_gauge!(
        "tagout_certificate_days_left",
        "Days until this node's certificate, or its CA, ends; below 0 once it has"
    );
    describe_gauge!(
        "tagout_certificate_refused",
        "1 while the certificate files are not usable and older ones stay in use"
    );
    describe_counter!(
        "tagout_certificate_renewals_total",
        "Renewals of this node's certificate by itself, by result"
    );
}

/// How near the guards are to a lapse.
pub fn leases(service: &Service) {
    let ttl_ms = service.replica.ledger().authority().map(|authority| authority.limits.ttl_ms);
    let Some(ttl) = ttl_ms.map(Duration::from_millis) else { return };
    let ages = service.instances.ages(ttl);
    gauge!("tagout_instances_lapsed").set(ages.older as f64);
    gauge!("tagout_least_lease_left_seconds").set((ttl - ages.oldest).as_secs_f64());
}

/// What ends soon.
pub fn endings(service: &Service, access: &Access) {
    let now_ms = clock::wall_ms();
    let endings = Ending::all(&service.replica, &access.tokens(), now_ms);
    for hours in WARNED_BEFORE_H {
        let soon = endings.iter().filter(|ending| ending.ends_at_ms <= now_ms + hours * HOUR_MS);
        let (mut grants, mut enrolments, mut tokens) = (0, 0, 0);
        for ending in soon {
            *match ending.what {
                What::Grant => &mut grants,
                What::Enrolment => &mut enrolments,
                What::ApiToken(_) => &mut tokens,
            } += 1;
        }
        let within = hours.to_string();
        gauge!("tagout_grants_ending", "within_hours" => within.clone()).set(f64::from(grants));
        gauge!("tagout_enrolments_ending", "within_hours" => within.clone()).set(f64::from(enrolments));
        gauge!("tagout_api_tokens_ending", "within_hours" => within).set(f64::from(tokens));
    }
}

/// What the newest drills showed, of as many scopes as the ledger keeps. It is written here, since the recorder would keep a
/// scope that has left for as long as the process runs.
pub fn drills(ledger: &Ledger) -> String {
    type Value = fn(&LatestDrill) -> Option<f64>;
    let meters: [(&str, &str, Value); 4] = [
        (
            "last_timestamp_seconds",
            "When the newest drill of a scope came into the log, Unix time",
            |drill| Some(drill.time_ms as f64 / 1000.0),
        ),
        (
            "slowest_seconds",
            "The slowest confirmation in the newest drill of a scope; absent where nobody confirmed",
            |drill| drill.slowest_ms.map(|ms| ms as f64 / 1000.0),
        ),
        ("bounded_instances", "Instances that stayed silent in the newest drill of a scope", |drill| {
            Some(drill.bounded as f64)
        }),
        ("not_resumed", "1 where the scope was not brought back when that drill was signed", |drill| {
            Some(f64::from(u8::from(!drill.resumed)))
        }),
    ];
    let drills = ledger.drills(&Scope::fleet());
    let mut text = String::new();
    for (name, help, value) in meters.iter().filter(|_| !drills.is_empty()) {
        text.push_str(&format!("# HELP tagout_drill_{name} {help}\n# TYPE tagout_drill_{name} gauge\n"));
        for drill in &drills {
            if let Some(value) = value(drill) {
                // No character of a scope means anything in a label.
                text.push_str(&format!("tagout_drill_{name}{{scope=\"{}\"}} {value}\n", drill.scope));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    /// Every literal that begins a metric's name, and those that are described.
    fn literals(folder: &Path, named: &mut BTreeSet<String>, described: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            if entry.path().is_dir() {
                literals(&entry.path(), named, described);
                continue;
            }
            let text = std::fs::read_to_string(entry.path()).unwrap();
            let mark = format!("\"{}_", "tagout");
            for (at, _) in text.match_indices(&mark) {
                let name: String = text[at + 1..].chars().take_while(|c| *c != '"').collect();
                if name.chars().all(|c| c.is_ascii_lowercase() || c == '_') {
                    let before = text[..at].trim_end().trim_end_matches("!(");
                    let is_described = before.rsplit(|c: char| !c.is_alphanumeric() && c != '_').next();
                    if is_described.is_some_and(|word| word.starts_with("describe_")) {
                        described.insert(name.clone());
                    }
                    named.insert(name);
                }
            }
        }
    }

    #[test]
    fn every_metric_is_described_and_well_named() {
        let (mut named, mut described) = (BTreeSet::new(), BTreeSet::new());
        literals(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut named, &mut described);
        assert!(named.len() > 20, "{named:?}");
        // A field of alerts, and what tokens begin with.
        for no_metric in ["tagout_scope", "tagout_", "tagout_api_"] {
            named.remove(no_metric);
        }
        let missing: Vec<_> = named.difference(&described).collect();
        assert!(missing.is_empty(), "describe them in api/meters.rs: {missing:?}");
    }
}
