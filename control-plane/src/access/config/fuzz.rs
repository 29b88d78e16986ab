//! Any text as an access file. See `tests/fuzz/lib.rs` for how.

use tagout_fuzz::{Answer, Target, mutate};

use super::*;

#[test]
fn access_file() {
    let seed = super::tests::GOOD.to_owned();
    let target =
        Target::new("access", [seed.clone()]).make(|random| mutate::lines(random, &seed).into_bytes());
    target.check(|bytes| {
        let parsed = Rules::parse(Path::new("access.toml"), &String::from_utf8_lossy(bytes));
        if let Ok(rules) = &parsed {
            // Nobody is let in for ever, or for nothing.
            assert!(rules.tokens.values().all(|token| !token.scopes.is_empty() && !token.name.is_empty()));
        }
        Answer::taken(parsed.is_ok())
    });
}
