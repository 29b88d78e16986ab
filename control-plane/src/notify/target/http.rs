//! A receiver over HTTP. Its address is the operator's: nothing that comes from elsewhere is ever asked for, and no redirect
//! is followed.

use std::fmt::Write;
use std::time::{Duration, SystemTime};

use reqwest::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use reqwest::{Response, StatusCode, Url};
use tagout_proto::sentence::sentence;

use super::{ATTEMPT_TIMEOUT, Answer};
use crate::clock;
use crate::notify::event::Event;
use crate::notify::format::{Format, Issue};
use crate::notify::key::Key;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Of an answer so much is read, and of that a sentence is shown.
const ANSWER_MAX_BYTES: usize = 4 * 1024;
/// A receiver may ask for no longer pause than this.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

pub struct HttpTarget {
    url: Url,
    pub format: Format,
    issue: Option<Issue>,
    /// The template of a proposal's address, with `{id}`.
    link: Option<String>,
    keys: Vec<Key>,
    http: reqwest::Client,
}

/// What a target over HTTP needs beside its address.
pub struct Surroundings {
    pub tls: rustls::ClientConfig,
    pub headers: HeaderMap,
    pub keys: Vec<Key>,
    pub issue: Option<Issue>,
    pub link: Option<String>,
}

impl HttpTarget {
    /// One without TLS is on this machine, and is asked without a proxy.
    pub fn new(url: Url, format: Format, surroundings: Surroundings) -> reqwest::Result<Self> {
        let Surroundings { tls, headers, keys, issue, link } = surroundings;
        let builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(ATTEMPT_TIMEOUT)
            .user_agent(concat!("tagout/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers);
        let http = if url.scheme() == "https" { builder.https_only(true) } else { builder.no_proxy() };
        Ok(Self { url, format, issue, link, keys, http: http.build()? })
    }

    pub fn place(&self) -> String {
        let port = self.url.port().map(|port| format!(":{port}")).unwrap_or_default();
        format!("{}://{}{port}", self.url.scheme(), self.url.host_str().unwrap_or_default())
    }

    pub async fn send(&self, event: &Event) -> Answer {
        let url =
            event.proposal.zip(self.link.as_ref()).map(|(id, link)| link.replace("{id}", &id.to_string()));
        let body = self.format.body(event, url.as_deref(), self.issue.as_ref());
        let body = serde_json::to_vec(&body).expect("a body is plain data");
        let mut request = self.http.post(self.url.clone()).header(CONTENT_TYPE, self.format.content_type());
        // Of this attempt, and not of the event: a receiver refuses what was captured and is sent again.
        let now_s = clock::wall_ms() / 1000;
        request = request.header("webhook-id", &event.id).header("webhook-timestamp", now_s.to_string());
        if !self.keys.is_empty() {
            let each: Vec<_> = self.keys.iter().map(|key| key.sign(&event.id, now_s, &body)).collect();
            request = request.header("webhook-signature", each.join(" "));
        }
        match request.body(body).send().await {
            Ok(response) => judge(response).await,
            Err(error) => Answer::Later { why: chain(&error.without_url()), after: None },
        }
    }
}

async fn judge(response: Response) -> Answer {
    let status = response.status();
    let after = retry_after(response.headers(), SystemTime::now());
    let mut said = status.to_string();
    let body = beginning(response).await;
    if !body.is_empty() {
        let _ = write!(said, ": {body}");
    }
    match status {
        status if status.is_success() => Answer::Taken(said),
        StatusCode::GONE => Answer::Gone(said),
        status if status.is_redirection() => {
            Answer::Later { why: format!("{said}: no redirect is followed: write the new address"), after }
        }
        // About who sends and where to, not about this one event: what an operator mends is sent again.
        StatusCode::UNAUTHORIZED
        | StatusCode::FORBIDDEN
        | StatusCode::NOT_FOUND
        | StatusCode::METHOD_NOT_ALLOWED
        | StatusCode::PROXY_AUTHENTICATION_REQUIRED
        | StatusCode::REQUEST_TIMEOUT
        | StatusCode::TOO_EARLY
        | StatusCode::TOO_MANY_REQUESTS => Answer::Later { why: said, after },
        status if status.is_client_error() => Answer::Refused(said),
        _ => Answer::Later { why: said, after },
    }
}

/// What it says first, in a sentence. Of the rest nothing is read.
async fn beginning(mut response: Response) -> String {
    let mut body = Vec::new();
    while body.len() < ANSWER_MAX_BYTES
        && let Ok(Some(chunk)) = response.chunk().await
    {
        body.extend_from_slice(&chunk);
    }
    body.truncate(ANSWER_MAX_BYTES);
    sentence(String::from_utf8_lossy(&body).trim())
}

/// RFC 9110, section 10.2.3: seconds, or a date.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let after = match value.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(value).ok()?.duration_since(now).unwrap_or_default(),
    };
    Some(after.min(RETRY_AFTER_MAX))
}

/// An error and what caused it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let _ = write!(text, ": {error}");
        source = error.source();
    }
    sentence(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_asked_for_in_seconds_or_by_a_date_and_has_a_bound() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let of = |value: &str| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, value.parse().unwrap())]);
            retry_after(&headers, now)
        };
        assert_eq!(of("7"), Some(Duration::from_secs(7)));
        assert_eq!(of("Sun, 06 Nov 1994 08:50:00 GMT"), Some(Duration::from_secs(23)));
        assert_eq!(of("Sun, 06 Nov 1994 08:49:00 GMT"), Some(Duration::ZERO), "it is over");
        assert_eq!(of("9999999"), Some(RETRY_AFTER_MAX));
        assert_eq!(of("soon"), None);
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }
}
