//! Any text as a node's configuration. See `tests/fuzz/lib.rs` for how.

use tagout_fuzz::{Answer, Target, mutate};

use super::*;

#[test]
fn config_file() {
    let seed = super::tests::config().documented();
    let target =
        Target::new("config", [seed.clone()]).make(|random| mutate::lines(random, &seed).into_bytes());
    target.check(|bytes| {
        let parsed = toml::from_str::<NodeConfig>(&String::from_utf8_lossy(bytes));
        if let Ok(config) = &parsed {
            // What `init` would write of it says the same.
            assert_eq!(&toml::from_str::<NodeConfig>(&config.documented()).unwrap(), config);
        }
        Answer::taken(parsed.is_ok())
    });
}
