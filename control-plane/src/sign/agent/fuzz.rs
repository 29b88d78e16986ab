//! Any bytes as an agent's list of keys. See `tests/fuzz/lib.rs` for how.

use tagout_fuzz::{Answer, Target, mutate};

use super::*;

#[test]
fn identities() {
    let plain = PublicKey::ed25519([9; 32], String::new());
    let strings =
        [plain.blob().to_vec(), b"someone@host".to_vec(), b"\0\0\0\x03rsa".to_vec(), b"\x1b[2J".to_vec()];
    let mut seed = vec![IDENTITIES_ANSWER, 0, 0, 0, 2];
    strings.iter().for_each(|string| put_string(&mut seed, string));
    let target = Target::new("agent-keys", [seed]).make(|random| {
        let mut answer = vec![IDENTITIES_ANSWER];
        let count = if random.one_in(8) { random.boundary() as u32 } else { random.below(4) as u32 };
        answer.extend(count.to_be_bytes());
        answer.extend(mutate::strings(random, &strings));
        answer
    });
    target.check(|bytes| {
        let read = read_identities(bytes);
        if let Ok(identities) = &read {
            for identity in identities {
                assert!(!identity.comment.contains(char::is_control), "a comment is shown to people");
                assert!(identity.usable().is_none_or(|key| key.blob() == identity.blob));
            }
        }
        Answer::of(&read)
    });
}
