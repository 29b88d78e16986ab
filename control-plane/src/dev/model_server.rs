//! A small model server that answers as OpenAI's chat completions do, for demonstrations and tests: plain HTTP on
//! loopback, words at a steady pace, and a count per agent of what was asked, sent and cut, so that it shows from
//! the outside whether a stop has stopped the spending.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, State, rejection::JsonRejection};
use axum::http::{HeaderMap, StatusCode, header::AUTHORIZATION};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use axum::{Json, Router};
use futures_util::{Stream, StreamExt, stream};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

const MODEL: &str = "tagout-demo-1";
const MAX_AGENTS: usize = 4096;
const MAX_AGENT_NAME_BYTES: usize = 512;
const MAX_OPEN_CALLS: usize = 4096;
const MAX_BODY_BYTES: usize = 1024 * 1024;
const MAX_TOKENS: u64 = 100_000;
const DEFAULT_TOKENS: u64 = 64;
/// Somebody shall have the time to stop it.
const DEFAULT_TOKENS_STREAMED: u64 = 256;

const SENTENCES: [&str; 8] = [
    "I have read the ticket and looked up the order in the warehouse system.",
    "The parcel left the depot on Tuesday and is two days late.",
    "Before I answer the customer, I compare the invoice with the delivery note.",
    "Three of the five items were confirmed; the other two are on back order.",
    "A refund of the shipping costs seems fair, so I am preparing one.",
    "Next I will write to the carrier and ask for the reason of the delay.",
    "While that is pending, the remaining tickets in the queue can be sorted.",
    "Nothing else needs attention right now, but I will keep watching the queue.",
];

/// What one agent has asked for and got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AgentCounters {
    /// Calls received, streaming or not.
    pub requests: u64,
    /// Streaming answers being sent now.
    pub streams_open: u64,
    /// Other answers being computed now.
    pub calls_open: u64,
    /// Words of all answers that were sent, or computed for an answer in one piece.
    pub tokens_sent: u64,
    /// Streaming answers that the client left before their end.
    pub streams_cut: u64,
    /// Other answers that the client did not wait for.
    pub calls_cut: u64,
}

/// The counters of every agent that has called, by the name that it gave.
pub type Counters = BTreeMap<String, AgentCounters>;

/// A running model server. Dropping it stops it too.
pub struct ModelServer {
    addr: SocketAddr,
    counters: watch::Receiver<Counters>,
    shutdown: CancellationToken,
    task: Option<JoinHandle<()>>,
}

impl ModelServer {
    /// Listens on `addr` (port 0 takes a free one) and sends one word every `token_interval`.
    ///
    /// # Errors
    /// If `addr` is not a loopback address, since the server lets everybody in, or cannot be listened on.
    pub async fn start(addr: SocketAddr, token_interval: Duration) -> io::Result<Self> {
        if !addr.ip().is_loopback() {
            let what =
                format!("the demo model server lets everybody in: give it a loopback address, not {addr}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        let listener = TcpListener::bind(addr).await?;
        let addr = listener.local_addr()?;
        let (counters, receiver) = watch::channel(Counters::new());
        let shutdown = CancellationToken::new();
        let desk = Arc::new(Desk {
            counters,
            token_interval,
            open_calls: Arc::new(Semaphore::new(MAX_OPEN_CALLS)),
            answers: AtomicU64::new(0),
            shutdown: shutdown.clone(),
        });
        let app = Router::new()
            .route("/v1/chat/completions", post(chat_completions))
            .route("/v1/models", get(models))
            .route("/counters", get(counters_json))
            .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
            .with_state(desk);
        // Words are small: the kernel must not hold one back to send it with the next.
        let without_delay = listener.tap_io(|stream| {
            let _ = stream.set_nodelay(true);
        });
        let stop = shutdown.clone();
        let task = tokio::spawn(async move {
            let served = axum::serve(without_delay, app).with_graceful_shutdown(stop.cancelled_owned()).await;
            if let Err(error) = served {
                tracing::error!(error = &error as &dyn std::error::Error, "the demo model server ended");
            }
        });
        Ok(Self { addr, counters: receiver, shutdown, task: Some(task) })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What a client of OpenAI's API takes as its base URL.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.addr)
    }

    /// The counters as they are now.
    pub fn counters(&self) -> Counters {
        self.counters.borrow().clone()
    }

    /// Waits until the counters satisfy `condition`, and returns them as they were then.
    pub async fn wait_for(&self, mut condition: impl FnMut(&Counters) -> bool) -> Counters {
        let mut counters = self.counters.clone();
        match counters.wait_for(|counters| condition(counters)).await {
            Ok(counters) => counters.clone(),
            Err(_) => self.counters(), // the server has ended: nothing will change any more
        }
    }

    /// Ends open streams, and returns when the server is gone.
    pub async fn shutdown(mut self) {
        self.shutdown.cancel();
        if let Some(task) = self.task.take() {
            // A panic in there has been reported by the panic hook already.
            let _ = task.await;
        }
    }
}

impl Drop for ModelServer {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

struct Desk {
    counters: watch::Sender<Counters>,
    token_interval: Duration,
    open_calls: Arc<Semaphore>,
    answers: AtomicU64,
    shutdown: CancellationToken,
}

#[derive(Deserialize)]
struct ChatRequest {
    model: Option<String>,
    messages: Vec<Value>,
    #[serde(default)]
    stream: bool,
    stream_options: Option<StreamOptions>,
    max_tokens: Option<u64>,
    max_completion_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

async fn chat_completions(
    State(desk): State<Arc<Desk>>,
    headers: HeaderMap,
    request: Result<Json<ChatRequest>, JsonRejection>,
) -> Response {
    let Some(agent) = agent_name(&headers) else {
        return refusal(
            StatusCode::UNAUTHORIZED,
            "invalid_request_error",
            "name the agent: send `Authorization: Bearer <agent>` or the header `x-agent`",
        );
    };
    let request = match request {
        Ok(Json(request)) => request,
        Err(rejection) => {
            let status = match rejection.status() {
                StatusCode::UNPROCESSABLE_ENTITY => StatusCode::BAD_REQUEST, // as OpenAI answers
                status => status,
            };
            return refusal(status, "invalid_request_error", &rejection.body_text());
        }
    };
    let Ok(slot) = Arc::clone(&desk.open_calls).try_acquire_owned() else {
        return refusal(
            StatusCode::TOO_MANY_REQUESTS,
            "rate_limit_error",
            "too many calls are open: try again later",
        );
    };
    let Some(call) = OpenCall::begin(Arc::clone(&desk), agent, request.stream, slot) else {
        return refusal(
            StatusCode::TOO_MANY_REQUESTS,
            "rate_limit_error",
            "too many agents have called: restart me",
        );
    };

    let answer = Answer::plan(&desk, &request);
    if request.stream {
        let include_usage = request.stream_options.is_some_and(|options| options.include_usage);
        let end = desk.shutdown.clone().cancelled_owned();
        Sse::new(answer.into_events(call, include_usage).take_until(end)).into_response()
    } else {
        tokio::select! {
            answered = answer.in_one_piece(call) => Json(answered).into_response(),
            () = desk.shutdown.cancelled() => {
                refusal(StatusCode::SERVICE_UNAVAILABLE, "server_error", "the demo model server is being stopped")
            }
        }
    }
}

async fn models() -> Json<Value> {
    Json(
        json!({"object": "list", "data": [{"id": MODEL, "object": "model", "created": 0, "owned_by": "tagout"}]}),
    )
}

async fn counters_json(State(desk): State<Arc<Desk>>) -> Json<Value> {
    Json(json!({ "agents": &*desk.counters.borrow() }))
}

/// `x-agent` wins, because agents behind a gateway share one key.
fn agent_name(headers: &HeaderMap) -> Option<String> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let bearer = || text(AUTHORIZATION.as_str())?.strip_prefix("Bearer ");
    let name = text("x-agent").or_else(bearer)?.trim();
    (!name.is_empty() && name.len() <= MAX_AGENT_NAME_BYTES).then(|| name.to_owned())
}

fn refusal(status: StatusCode, kind: &str, message: &str) -> Response {
    let body = json!({"error": {"message": message, "type": kind, "param": null, "code": null}});
    (status, Json(body)).into_response()
}

/// A call that is being answered. Dropped before [`OpenCall::finish`], it counts as cut: hyper drops the answer
/// when the client has gone.
struct OpenCall {
    desk: Arc<Desk>,
    agent: String,
    streaming: bool,
    finished: bool,
    _slot: OwnedSemaphorePermit,
}

impl OpenCall {
    /// `None` if the table of agents is full.
    fn begin(desk: Arc<Desk>, agent: String, streaming: bool, slot: OwnedSemaphorePermit) -> Option<Self> {
        let begun = desk.counters.send_if_modified(|counters| {
            if counters.len() >= MAX_AGENTS && !counters.contains_key(&agent) {
                return false;
            }
            let counted = counters.entry(agent.clone()).or_default();
            counted.requests += 1;
            *if streaming { &mut counted.streams_open } else { &mut counted.calls_open } += 1;
            true
        });
        begun.then(|| Self { desk, agent, streaming, finished: false, _slot: slot })
    }

    fn count(&self, change: impl FnOnce(&mut AgentCounters)) {
        self.desk.counters.send_modify(|counters| change(counters.entry(self.agent.clone()).or_default()));
    }

    fn finish(&mut self) {
        self.finished = true;
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        // A stream that this server ended itself, at its shutdown, was not cut by anybody.
        let cut = u64::from(!self.finished && !self.desk.shutdown.is_cancelled());
        let streaming = self.streaming;
        self.count(|counted| {
            let (open, cuts) = if streaming {
                (&mut counted.streams_open, &mut counted.streams_cut)
            } else {
                (&mut counted.calls_open, &mut counted.calls_cut)
            };
            *open -= 1;
            *cuts += cut;
        });
    }
}

/// What a streamed answer sends next.
enum Next {
    Role,
    Word(u64),
    Reason,
    Usage,
    Done,
    Nothing,
}

/// One answer: its words are settled by its number, so two answers differ and a test can repeat one.
struct Answer {
    id: String,
    created: u64,
    model: String,
    number: u64,
    tokens: u64,
    cut_short: bool,
    prompt_tokens: u64,
    token_interval: Duration,
}

impl Answer {
    fn plan(desk: &Desk, request: &ChatRequest) -> Self {
        let number = desk.answers.fetch_add(1, Ordering::Relaxed);
        let asked = request.max_completion_tokens.or(request.max_tokens);
        let by_default = if request.stream { DEFAULT_TOKENS_STREAMED } else { DEFAULT_TOKENS };
        let prompt_bytes: usize = request.messages.iter().map(|message| message.to_string().len()).sum();
        Self {
            id: format!("chatcmpl-{number:024}"),
            created: crate::clock::wall_ms() / 1000,
            model: request.model.clone().unwrap_or_else(|| MODEL.to_owned()),
            number,
            tokens: asked.unwrap_or(by_default).clamp(1, MAX_TOKENS),
            cut_short: asked.is_some(),
            prompt_tokens: prompt_bytes.div_ceil(4) as u64, // about what tokenizers make of English
            token_interval: desk.token_interval,
        }
    }

    fn word(&self, index: u64) -> String {
        let first_sentence = self.number as usize % SENTENCES.len();
        let mut words =
            SENTENCES.iter().cycle().skip(first_sentence).flat_map(|sentence| sentence.split(' '));
        let in_all: usize = SENTENCES.iter().map(|sentence| sentence.split(' ').count()).sum();
        let word = words.nth(index as usize % in_all).expect("the sentences repeat for ever");
        if index == 0 { word.to_owned() } else { format!(" {word}") }
    }

    fn finish_reason(&self) -> &'static str {
        if self.cut_short { "length" } else { "stop" }
    }

    fn usage(&self) -> Value {
        json!({
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.tokens,
            "total_tokens": self.prompt_tokens + self.tokens,
        })
    }

    fn chunk(&self, choices: Value, usage: Value) -> Result<Event, Infallible> {
        let chunk = json!({
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
            "system_fingerprint": "fp_tagout_demo",
            "choices": choices,
            "usage": usage,
        });
        Ok(Event::default().data(chunk.to_string()))
    }

    fn delta(&self, delta: Value, finish_reason: Option<&str>) -> Result<Event, Infallible> {
        let choice = json!({"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish_reason});
        self.chunk(json!([choice]), Value::Null)
    }

    /// The role, the words at their pace, the reason for the end, the usage if asked for, and `[DONE]`.
    fn into_events(
        self,
        call: OpenCall,
        include_usage: bool,
    ) -> impl Stream<Item = Result<Event, Infallible>> {
        let started = Instant::now();
        stream::unfold((self, call, Next::Role), move |(answer, mut call, next)| async move {
            let (event, next) = match next {
                Next::Role => {
                    let role = json!({"role": "assistant", "content": "", "refusal": null});
                    (answer.delta(role, None), Next::Word(0))
                }
                Next::Word(index) => {
                    // Counted from the start, so that a slow moment does not slow the whole answer down.
                    sleep_until(started + pace(answer.token_interval, index + 1)).await;
                    call.count(|counted| counted.tokens_sent += 1);
                    let event = answer.delta(json!({"content": answer.word(index)}), None);
                    (event, if index + 1 < answer.tokens { Next::Word(index + 1) } else { Next::Reason })
                }
                Next::Reason => {
                    let event = answer.delta(json!({}), Some(answer.finish_reason()));
                    (event, if include_usage { Next::Usage } else { Next::Done })
                }
                Next::Usage => (answer.chunk(json!([]), answer.usage()), Next::Done),
                Next::Done => {
                    call.finish();
                    (Ok(Event::default().data("[DONE]")), Next::Nothing)
                }
                Next::Nothing => return None,
            };
            Some((event, (answer, call, next)))
        })
    }

    async fn in_one_piece(self, mut call: OpenCall) -> Value {
        sleep_until(Instant::now() + pace(self.token_interval, self.tokens)).await;
        call.count(|counted| counted.tokens_sent += self.tokens);
        call.finish();
        let content: String = (0..self.tokens).map(|index| self.word(index)).collect();
        let message = json!({"role": "assistant", "content": content, "refusal": null});
        json!({
            "id": self.id,
            "object": "chat.completion",
            "created": self.created,
            "model": self.model,
            "system_fingerprint": "fp_tagout_demo",
            "choices": [{"index": 0, "message": message, "logprobs": null, "finish_reason": self.finish_reason()}],
            "usage": self.usage(),
        })
    }
}

fn pace(token_interval: Duration, tokens: u64) -> Duration {
    token_interval.saturating_mul(u32::try_from(tokens).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    async fn start(token_interval: Duration) -> ModelServer {
        ModelServer::start((Ipv4Addr::LOCALHOST, 0).into(), token_interval)
            .await
            .expect("loopback can be listened on")
    }

    /// The crate's reqwest brings no TLS provider of its own, so each client is given one, here unused.
    fn client() -> reqwest::Client {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring does TLS 1.2 and 1.3")
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        reqwest::Client::builder().tls_backend_preconfigured(config).no_proxy().build().expect("a client")
    }

    fn ask(server: &ModelServer, agent: &str, body: Value) -> reqwest::RequestBuilder {
        let url = format!("{}/chat/completions", server.base_url());
        client().post(url).bearer_auth(agent).json(&body)
    }

    fn messages() -> Value {
        json!([{"role": "user", "content": "Where is my parcel?"}])
    }

    #[tokio::test]
    async fn a_stream_has_every_part_and_is_counted() {
        let server = start(Duration::ZERO).await;
        let body = json!({
            "model": "gpt-x", "messages": messages(), "stream": true, "stream_options": {"include_usage": true},
            "max_tokens": 30,
        });
        let text = ask(&server, "moltbook/a", body).send().await.unwrap().text().await.unwrap();
        let data: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
        assert_eq!(data.len(), 1 + 30 + 1 + 1 + 1, "{text}");
        assert_eq!(data.last(), Some(&"[DONE]"));
        let chunks: Vec<Value> =
            data[..33].iter().map(|chunk| serde_json::from_str(chunk).expect("each chunk is JSON")).collect();
        assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
        assert_eq!(chunks[31]["choices"][0]["finish_reason"], "length");
        assert_eq!(chunks[32]["usage"]["completion_tokens"], 30);
        assert!(
            chunks
                .iter()
                .all(|chunk| chunk["model"] == "gpt-x" && chunk["object"] == "chat.completion.chunk")
        );
        let words: String =
            chunks[1..31].iter().filter_map(|c| c["choices"][0]["delta"]["content"].as_str()).collect();
        assert_eq!(words.split(' ').count(), 30);

        let expected = AgentCounters { requests: 1, tokens_sent: 30, ..Default::default() };
        server.wait_for(|counters| counters.get("moltbook/a") == Some(&expected)).await;
        let shown: Value = client()
            .get(format!("http://{}/counters", server.addr()))
            .send()
            .await
            .unwrap()
            .json()
            .await
            .unwrap();
        assert_eq!(shown["agents"]["moltbook/a"]["tokens_sent"], 30);
        server.shutdown().await;
    }

    #[tokio::test]
    async fn an_answer_in_one_piece_matches_its_stream_of_words() {
        let server = start(Duration::ZERO).await;
        let call = ask(&server, "ignored", json!({"messages": messages()})).header("x-agent", "b");
        let answer: Value = call.send().await.unwrap().json().await.unwrap();
        let content = answer["choices"][0]["message"]["content"].as_str().unwrap();
        assert!(content.starts_with("I have read the ticket"), "{content}");
        assert_eq!(content.split(' ').count() as u64, DEFAULT_TOKENS);
        assert_eq!(answer["choices"][0]["finish_reason"], "stop");
        assert_eq!(answer["usage"]["completion_tokens"], DEFAULT_TOKENS);
        let expected = AgentCounters { requests: 1, tokens_sent: DEFAULT_TOKENS, ..Default::default() };
        assert_eq!(server.counters(), Counters::from([("b".to_owned(), expected)]));
    }

    #[tokio::test]
    async fn a_client_that_leaves_is_counted_as_cut() {
        let server = start(Duration::from_millis(1)).await;
        let body = json!({"messages": messages(), "stream": true, "max_tokens": MAX_TOKENS});
        let mut stream = ask(&server, "c", body).send().await.unwrap();
        stream.chunk().await.unwrap().expect("the first chunk");
        server.wait_for(|counters| counters["c"].streams_open == 1 && counters["c"].tokens_sent > 0).await;
        drop(stream);
        let counters = server.wait_for(|counters| counters["c"].streams_open == 0).await;
        assert_eq!((counters["c"].streams_cut, counters["c"].calls_cut), (1, 0));
        server.shutdown().await;
    }

    #[tokio::test]
    async fn a_pending_call_that_is_given_up_is_counted_as_cut() {
        let server = start(Duration::from_secs(3600)).await;
        let call = tokio::spawn(ask(&server, "d", json!({"messages": messages()})).send());
        server.wait_for(|counters| counters.get("d").is_some_and(|d| d.calls_open == 1)).await;
        call.abort();
        let counters = server.wait_for(|counters| counters["d"].calls_open == 0).await;
        assert_eq!((counters["d"].calls_cut, counters["d"].tokens_sent), (1, 0));
    }

    #[tokio::test]
    async fn shutdown_ends_what_is_open_without_calling_it_cut() {
        let server = start(Duration::from_secs(3600)).await;
        let mut stream =
            ask(&server, "e", json!({"messages": messages(), "stream": true})).send().await.unwrap();
        stream.chunk().await.unwrap().expect("the role");
        let counters = server.counters.clone();
        server.shutdown().await;
        while stream.chunk().await.expect("an end in good order").is_some() {}
        let server_of_a_call = start(Duration::from_secs(3600)).await;
        let call = tokio::spawn(ask(&server_of_a_call, "f", json!({"messages": messages()})).send());
        server_of_a_call.wait_for(|counters| counters.contains_key("f")).await;
        server_of_a_call.shutdown().await;
        assert_eq!(call.await.unwrap().unwrap().status(), 503);
        assert_eq!(counters.borrow()["e"], AgentCounters { requests: 1, ..Default::default() });
    }

    #[tokio::test]
    async fn what_cannot_be_answered_gets_an_openai_error() {
        let server = start(Duration::ZERO).await;
        let url = format!("{}/chat/completions", server.base_url());
        let nameless = client().post(&url).json(&json!({"messages": []})).send().await.unwrap();
        assert_eq!(nameless.status(), 401);
        let broken =
            client().post(&url).bearer_auth("f").json(&json!({"stream": "yes"})).send().await.unwrap();
        assert_eq!(broken.status(), 400);
        let error: Value = broken.json().await.unwrap();
        assert_eq!(error["error"]["type"], "invalid_request_error");
        let large = client().post(&url).bearer_auth("f").body(vec![b' '; MAX_BODY_BYTES + 1]);
        let large = large.header("content-type", "application/json").send().await.unwrap();
        assert_eq!(large.status(), 413);
        assert_eq!(server.counters(), Counters::new());
        let open = ModelServer::start((Ipv4Addr::UNSPECIFIED, 0).into(), Duration::ZERO).await;
        assert!(open.is_err_and(|error| error.to_string().contains("loopback")));
    }
}
