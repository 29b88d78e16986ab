//! What a process shows to be taken for an enrolled agent: `Authorization: Bearer tagout_…`. Only its SHA-256 goes on from here.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use tagout_proto::digest::Digest;
use tagout_proto::token::Token;

use super::problem::{Code, Problem};
use crate::access::ApiToken;

/// The SHA-256 of the token, if one was sent.
pub struct Credential(pub Option<Digest>);

impl<S: Sync> FromRequestParts<S> for Credential {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let Some(token) = bearer(&parts.headers).map_err(unfit)? else { return Ok(Self(None)) };
        // It says who may read, and nothing of an agent.
        if token.parse::<ApiToken>().is_ok() {
            return Ok(Self(None));
        }
        let token: Token = token.parse().map_err(|error| unfit(&format!("{error}")))?;
        Ok(Self(Some(token.digest())))
    }
}

/// What the header Authorization bears, if there is one.
///
/// # Errors
/// What is wrong with it.
pub fn bearer(headers: &HeaderMap) -> Result<Option<&str>, &'static str> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return match headers.contains_key(header::AUTHORIZATION) {
            true => Err("there is more than one of them"),
            false => Ok(None),
        };
    };
    // RFC 9110, section 11.1: the name of a scheme is the same in capitals.
    let (scheme, token) = value.to_str().ok().and_then(|value| value.split_once(' ')).unwrap_or(("", ""));
    if !scheme.eq_ignore_ascii_case("Bearer") {
        return Err("it is of another scheme");
    }
    Ok(Some(token.trim()))
}

fn unfit(what: &str) -> Problem {
    let detail = format!("the header Authorization is not \"Bearer TOKEN\" with an agent's token: {what}");
    Problem::new(Code::NotEnrolled, detail)
}
