//! A receiver of notifications: a real HTTP server that keeps what it is told and answers as it is told to.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use parking_lot::Mutex;
use serde_json::Value;

use crate::deployment::{Deployment, free_address, runtime};
use crate::wait::wait_for;

/// What one is told, and what it answered.
#[derive(Clone, Debug)]
pub struct Told {
    pub headers: HeaderMap,
    pub body: String,
    pub taken: bool,
}

impl Told {
    #[track_caller]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no {name}: {:?}", self.headers)).to_str().unwrap()
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }

    pub fn id(&self) -> &str {
        self.header("webhook-id")
    }

    /// The entry that it is of.
    pub fn entry(&self) -> Option<u64> {
        self.id().strip_prefix("evt_")?.split_once('_')?.0.parse().ok()
    }
}

/// How one answers: by the event's body.
type Answers = Box<dyn FnMut(&Value) -> Answer + Send>;

pub enum Answer {
    Take,
    Refuse(u16),
    /// 429 with `Retry-After`.
    RetryAfter(u64),
    Hang,
}

#[derive(Clone)]
struct Shared {
    told: Arc<Mutex<Vec<Told>>>,
    answers: Arc<Mutex<Answers>>,
}

pub struct Receiver {
    pub address: SocketAddr,
    shared: Shared,
    serving: Option<tokio::runtime::Runtime>,
}

impl Receiver {
    /// One that has an address, and does not listen yet.
    pub fn down() -> Self {
        let answers: Answers = Box::new(|_| Answer::Take);
        let shared = Shared { told: Arc::default(), answers: Arc::new(Mutex::new(answers)) };
        Self { address: free_address(), shared, serving: None }
    }

    pub fn start() -> Self {
        let mut receiver = Self::down();
        receiver.listen();
        receiver
    }

    pub fn answering(answers: impl FnMut(&Value) -> Answer + Send + 'static) -> Self {
        let receiver = Self::start();
        receiver.answer(answers);
        receiver
    }

    pub fn answer(&self, answers: impl FnMut(&Value) -> Answer + Send + 'static) {
        *self.shared.answers.lock() = Box::new(answers);
    }

    pub fn listen(&mut self) {
        let serving = runtime();
        let listener = std::net::TcpListener::bind(self.address).expect("its own address");
        listener.set_nonblocking(true).expect("a socket");
        let app = Router::new().fallback(post(take)).with_state(self.shared.clone());
        serving.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
            axum::serve(listener, app).await.expect("it serves");
        });
        self.serving = Some(serving);
    }

    pub fn url(&self) -> String {
        format!("http://{}/hooks/tagout", self.address)
    }

    pub fn told(&self) -> Vec<Told> {
        self.shared.told.lock().clone()
    }

    /// What it has taken, without doubles.
    pub fn taken(&self) -> Vec<Told> {
        let mut taken: Vec<Told> = Vec::new();
        for told in self.told().into_iter().filter(|told| told.taken) {
            if !taken.iter().any(|before| before.id() == told.id()) {
                taken.push(told);
            }
        }
        taken
    }

    /// Of the log, in the order in which it was told for the first time.
    pub fn entries(&self) -> Vec<u64> {
        self.taken().iter().filter_map(Told::entry).collect()
    }

    /// Waits until it was told of something of this type.
    #[track_caller]
    pub fn hears(&self, kind: &str) -> Told {
        wait_for(kind, || self.taken().into_iter().find(|told| told.json()["type"] == kind))
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.shutdown_background();
        }
    }
}

async fn take(State(shared): State<Shared>, headers: HeaderMap, body: String) -> Response {
    let json = serde_json::from_str(&body).unwrap_or(Value::Null);
    let answer = (shared.answers.lock())(&json);
    let taken = matches!(answer, Answer::Take);
    shared.told.lock().push(Told { headers, body, taken });
    match answer {
        Answer::Take => (StatusCode::CREATED, "taken").into_response(),
        Answer::Refuse(status) => (StatusCode::from_u16(status).unwrap(), "no, thank you").into_response(),
        Answer::RetryAfter(seconds) => {
            (StatusCode::TOO_MANY_REQUESTS, [("retry-after", seconds.to_string())]).into_response()
        }
        Answer::Hang => {
            tokio::time::sleep(Duration::from_secs(3600)).await;
            StatusCode::OK.into_response()
        }
    }
}

/// Has every node tell receivers, before it starts. A key `notify.key` is there, made by the command.
pub fn configure(deployment: &Deployment, nodes: u32, text: &str) {
    for n in 1..=nodes {
        let folder = deployment.dir().join(format!("node-{n}"));
        let key = folder.join("notify.key");
        if n == 1 {
            deployment.run(&["notifications", "key", &key.display().to_string()]).exits(0);
        } else {
            std::fs::copy(deployment.dir().join("node-1/notify.key"), key).expect("the key");
        }
        std::fs::write(folder.join("notify.toml"), text).expect("its folder is there");
        let config = folder.join("tagout.toml");
        let before = std::fs::read_to_string(&config).expect("the configuration");
        std::fs::write(config, format!("{before}notify = \"notify.toml\"\n")).expect("its folder is there");
    }
}

/// One `[[receiver]]` of that file.
pub fn entry(name: &str, url: &str, more: &str) -> String {
    format!("[[receiver]]\nname = '{name}'\nurl = '{url}'\nsign = ['notify.key']\n{more}\n\n")
}
