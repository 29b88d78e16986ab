//! Any text as a profile. See `tests/fuzz/lib.rs` for how.

use tagout_fuzz::{Answer, Target, mutate};

use super::*;

#[test]
fn profile_file() {
    let seed = format!(
        "deployment = \"demo:{}\"\nnodes = [\"https://node-1:7470\"]\nca = \"ca.pem\"\ngenesis = 'genesis.json'\n\
         keys = [\"~/.ssh/id_ed25519\", \"agent:SHA256:x\"]\n",
        "0".repeat(64)
    );
    let target =
        Target::new("profile", [seed.clone()]).make(|random| mutate::lines(random, &seed).into_bytes());
    target.check(|bytes| {
        let parsed = toml::from_str::<ProfileFile>(&String::from_utf8_lossy(bytes));
        if let Ok(file) = &parsed {
            assert_eq!(&toml::from_str::<ProfileFile>(&toml::to_string(file).unwrap()).unwrap(), file);
        }
        Answer::taken(parsed.is_ok())
    });
}
