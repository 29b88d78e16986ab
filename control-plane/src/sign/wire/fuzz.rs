//! Any bytes as a public key, in a `.pub` file and from an agent. See `tests/fuzz/lib.rs` for how.

use tagout_fuzz::{Answer, Target, check_sentence, mutate};

use super::*;

fn check(key: Result<PublicKey, NotUsable>, blob: Option<&[u8]>) -> Answer {
    match &key {
        Ok(key) => {
            assert!(blob.is_none_or(|blob| blob == key.blob()));
            let again = PublicKey::from_line(&key.line()).unwrap();
            assert!(again == *key, "{key:?} {again:?}");
            assert!(!key.line().contains(char::is_control), "a comment is shown to people");
        }
        Err(NotUsable::WrongKind(kind)) => check_sentence(kind),
        Err(NotUsable::Unfit(why)) => check_sentence(&why.to_string()),
        Err(NotUsable::Malformed) => {}
    }
    Answer::taken(key.is_ok())
}

fn security_key() -> Vec<Vec<u8>> {
    let key = ed25519_dalek::SigningKey::from_bytes(&[7; 32]).verifying_key();
    vec![b"sk-ssh-ed25519@openssh.com".to_vec(), key.to_bytes().into(), b"ssh:".to_vec()]
}

#[test]
fn public_keys() {
    let mut blob = Vec::new();
    security_key().iter().for_each(|string| put_string(&mut blob, string));
    let plain = PublicKey::ed25519([9; 32], "someone@host".into());
    let seeds =
        [blob, plain.blob().to_vec(), plain.line().into_bytes(), format!("{} a b", plain.line()).into()];
    let target = Target::new("signer-key", seeds).make(|random| {
        let plain = vec![b"ssh-ed25519".to_vec(), random.array::<32>().to_vec()];
        let parts = if random.one_in(2) { plain } else { security_key() };
        mutate::strings(random, &parts)
    });
    target.check(|bytes| {
        let line = PublicKey::from_line(&String::from_utf8_lossy(bytes));
        let blob = PublicKey::from_blob(bytes, "comment".into());
        check(line, None).or(check(blob, Some(bytes)))
    });
}
