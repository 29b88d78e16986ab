//! Views, leaves and leases.

use serde_json::json;
use tagout_proto::digest::Digest;
use tagout_proto::lease::{Lease, LeaseError, LockAnswer, leaf_hash_of};
use tagout_proto::scope::Scope;
use tagout_proto::view::View;

use crate::cases::{digest, number, read, run, text};
use crate::log::{key, note_code};

#[test]
fn views_and_leaves() {
    run("view", |case| match case.get("view") {
        Some(view) => {
            let parsed: View = read(view);
            assert_eq!(json!(parsed), *view, "a view is written as it is read");
            Ok(json!(parsed.digest()))
        }
        None => {
            let views: Vec<(Scope, Digest)> = read(&case["views"]);
            let answers: Vec<(Digest, LockAnswer)> = read(&case["answers"]);
            assert_eq!(json!(answers), case["answers"], "answers are written as they are read");
            let views = views.iter().map(|(scope, view)| (scope, *view));
            Ok(json!(leaf_hash_of(&digest(&case["nonce"]), views, &answers)))
        }
    });
}

#[test]
fn leases() {
    run("lease", |case| {
        let code = |error: LeaseError| match error {
            LeaseError::Note(error) => note_code(&error),
            LeaseError::Malformed(_) => "malformed".into(),
            LeaseError::NotBound => "not-bound".into(),
        };
        let lease = Lease::open(text(&case["note"]), &key(&case["key"])).map_err(code)?;
        if let Some(leaf) = case.get("leaf") {
            let path: Vec<Digest> = read(&case["path"]);
            lease.binds(digest(leaf), number(&case["leaf_index"]), &path).map_err(code)?;
            return Ok(json!(true));
        }
        Ok(json!({
            "deployment": lease.deployment.to_string(),
            "epoch_number": lease.epoch_number,
            "epoch": lease.epoch,
            "authority_version": lease.authority_version,
            "authority": lease.authority,
            "log_size": lease.log_size,
            "log_root": lease.log_root,
            "time_ms": lease.time_ms,
            "ttl_ms": lease.ttl_ms,
            "lapse_grace_ms": lease.lapse_grace_ms,
            "rule_version": lease.rule_version,
            "batch_size": lease.batch_size,
            "batch_root": lease.batch_root,
        }))
    });
}
