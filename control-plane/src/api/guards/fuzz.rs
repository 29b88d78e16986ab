//! Any bytes as what guards ask and say. See `tests/fuzz/lib.rs` for how.

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::header;
use serde::de::DeserializeOwned;
use serde_json::json;
use tagout_fuzz::{Answer, Target, check_sentence, mutate};

use super::*;

async fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    let request = Request::builder().header(header::CONTENT_TYPE, "application/json");
    let request = request.body(Body::from(body.to_vec())).unwrap();
    Json::<T>::from_request(request, &()).await.map(|Json(value)| value).map_err(unreadable)
}

fn answered<T>(result: Result<T, Problem>) -> Answer {
    if let Err(problem) = &result {
        assert!(problem.status().is_client_error(), "{problem:?}");
        check_sentence(problem.detail());
    }
    Answer::taken(result.is_ok())
}

#[test]
fn requests() {
    let id = "ab".repeat(32);
    let seeds = [
        json!({"nonce": id, "instance": "host/1", "agents": [{"scope": "a/b", "view": id}], "known": [{"id": id, "agent": "a/b"}]}),
        json!({"lock": id, "agent": "a/b", "instance": "host/1", "closed_us": 1, "cut_us": 2, "calls_cut": 3, "by": "push"}),
    ]
    .map(|seed| seed.to_string());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let target = Target::new("guard-requests", seeds.clone()).make(|random| {
        let seed = random.pick(&seeds);
        mutate::json(random, &seed).into_bytes()
    });
    target.check(|bytes| {
        runtime.block_on(async {
            let lease =
                read::<LeaseRequest>(bytes).await.and_then(|request| check_instance(&request.instance));
            let said = read::<Confirmation>(bytes).await.and_then(|said| check_instance(&said.instance));
            answered(lease).or(answered(said))
        })
    });
}
