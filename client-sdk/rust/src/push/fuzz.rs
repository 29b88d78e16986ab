//! Any bytes that a node may send as events. See `tests/fuzz/lib.rs` for how.

use serde_json::json;
use tagout_fuzz::{Answer, Target, check_sentence, mutate};

use super::*;

/// What a guard hears, and what ended it, if the stream comes in pieces of `piece` bytes.
async fn heard(bytes: &[u8], piece: usize) -> (Vec<String>, Option<String>) {
    let pieces = stream::iter(bytes.chunks(piece.max(1)).map(Ok::<_, reqwest::Error>));
    let mut pushes = Box::pin(pushes(pieces));
    let mut heard = Vec::new();
    while let Some(push) = pushes.next().await {
        match push {
            Ok(push) => heard.push(format!("{push:?}")),
            Err(why) => return (heard, Some(why.to_string())),
        }
    }
    (heard, None)
}

#[test]
fn events() {
    let digest = "ab".repeat(32);
    let stop =
        json!({"stop": {"document": "{\"a\":\"é\"}", "signatures": ["x\ny"]}, "index": 3, "time_ms": 4});
    let renew = json!({"log_size": 7, "deny": true});
    let seeds = [
        format!("event: hello\ndata: {renew}\n\n: still here\n\nevent: stop\ndata: {stop}\n\n"),
        "event: renew\r\ndata: {\"log_size\":7,\r\ndata: \"deny\":false}\r\n\r\n".to_owned(),
        format!("id: {digest}\nretry: 10\nevent:stop\ndata:{stop}\n\nevent: renew\ndata: {renew}\n\n"),
    ];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let target = Target::new("events", seeds.clone()).make(|random| {
        let seed = random.pick(&seeds);
        mutate::lines(random, &seed).into_bytes()
    });
    target.check(|bytes| {
        runtime.block_on(async {
            let (whole, why) = heard(bytes, bytes.len()).await;
            // How the network cut it into pieces changes nothing.
            let piece = 1 + usize::from(bytes.first().copied().unwrap_or(0)) % 7;
            let (pieces, why_pieces) = heard(bytes, piece).await;
            assert_eq!((&pieces, &why_pieces), (&whole, &why));
            why.iter().for_each(|why| check_sentence(why));
            let said = |push: &&String| push.starts_with("Unreadable");
            pieces.iter().filter(said).for_each(|push| check_sentence(push));
            Answer::taken(pieces.iter().any(|push| !said(&push)))
        })
    });
}
