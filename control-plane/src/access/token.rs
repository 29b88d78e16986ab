//! An API token: what a person or a tool shows to read. `tagout_api_` and 256 random bits in hexadecimal, so that nobody takes
//! it for an agent's (`tagout_…`), and scanners for secrets find both. A node's file holds its SHA-256 alone.

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER;
use tagout_proto::digest::Digest;

pub const PREFIX: &str = "tagout_api_";

#[derive(Clone, PartialEq, Eq)]
pub struct ApiToken(String);

/// The text is left out, since it may be a secret with a typing error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an API token is {PREFIX} and 64 lowercase hex digits, as `tagout token new` shows it")]
pub struct NotAnApiToken;

impl ApiToken {
    /// A new one that nobody can guess.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut bits = [0; 32];
        getrandom::fill(&mut bits)?;
        Ok(Self(format!("{PREFIX}{}", HEXLOWER.encode(&bits))))
    }

    /// SHA-256 of the whole text. With so many random bits it needs neither salt nor a slow hash, and whoever looks it up
    /// tells nothing of the token by the time that it takes.
    pub fn digest(&self) -> Digest {
        Digest::of(self.0.as_bytes())
    }

    /// For the one who shall have it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl FromStr for ApiToken {
    type Err = NotAnApiToken;
    fn from_str(text: &str) -> Result<Self, NotAnApiToken> {
        let bits = text.strip_prefix(PREFIX).and_then(|hex| HEXLOWER.decode(hex.as_bytes()).ok());
        match bits {
            Some(bits) if bits.len() == 32 => Ok(Self(text.into())),
            Some(_) | None => Err(NotAnApiToken),
        }
    }
}

/// It ends up in no log.
impl fmt::Debug for ApiToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiToken({PREFIX}…)")
    }
}

#[cfg(test)]
mod tests {
    use tagout_proto::token::Token;

    use super::*;

    #[test]
    fn no_token_is_taken_for_one_of_the_other_kind() {
        let (api, agent) = (ApiToken::random().unwrap(), Token::of_random([7; 32]));
        assert_eq!(api.reveal().parse(), Ok(api.clone()));
        api.reveal().parse::<Token>().unwrap_err();
        assert_eq!(agent.reveal().parse::<ApiToken>(), Err(NotAnApiToken));
        assert_ne!(api, ApiToken::random().unwrap());
        assert_eq!(format!("{api:?}"), "ApiToken(tagout_api_…)");
    }

    #[test]
    fn a_token_has_one_spelling() {
        let hex = "ab".repeat(32);
        assert!(format!("tagout_api_{hex}").parse::<ApiToken>().is_ok());
        for bad in [
            String::new(),
            format!("tagout_api_{}", &hex[2..]),
            format!("tagout_api_{hex}00"),
            format!("tagout_api_{}", hex.to_uppercase()),
            format!("Tagout_api_{hex}"),
            format!("tagout_api_{hex}\n"),
        ] {
            assert_eq!(bad.parse::<ApiToken>(), Err(NotAnApiToken), "{bad:?}");
        }
    }
}
