//! An agent's token: what a process shows to be taken for the agent that was enrolled. `tagout_` and 256 random bits in
//! hexadecimal; documents, logs and states hold its SHA-256 alone.

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER;

use crate::digest::Digest;

const PREFIX: &str = "tagout_";

#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

/// The text is left out, since it may be a secret with a typing error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a token is {PREFIX} and 64 lowercase hex digits, as `tagout agent enroll` prints it")]
pub struct NotAToken;

impl Token {
    /// The token of 256 bits that nobody can guess.
    pub fn of_random(bits: [u8; 32]) -> Self {
        Self(format!("{PREFIX}{}", HEXLOWER.encode(&bits)))
    }

    /// What an `enroll` names: SHA-256 of the whole text. With so many random bits it needs neither salt nor a slow hash, and
    /// whoever compares digests tells nothing of the token by the time that it takes.
    pub fn digest(&self) -> Digest {
        Digest::of(self.0.as_bytes())
    }

    /// For the one who shall have it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl FromStr for Token {
    type Err = NotAToken;
    fn from_str(text: &str) -> Result<Self, NotAToken> {
        let bits = text.strip_prefix(PREFIX).and_then(|hex| HEXLOWER.decode(hex.as_bytes()).ok());
        match bits {
            Some(bits) if bits.len() == 32 => Ok(Self(text.into())),
            Some(_) | None => Err(NotAToken),
        }
    }
}

/// It ends up in no log.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({PREFIX}…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_one_spelling_and_is_not_shown() {
        let token = Token::of_random([0xab; 32]);
        assert_eq!(token.reveal(), format!("tagout_{}", "ab".repeat(32)));
        assert_eq!(token.reveal().parse(), Ok(token.clone()));
        assert_eq!(token.digest(), Digest::of(token.reveal().as_bytes()));
        assert_eq!(format!("{token:?}"), "Token(tagout_…)");
        let hex = "ab".repeat(32);
        for bad in [
            String::new(),
            hex.clone(),
            format!("tagout_{}", &hex[2..]),
            format!("tagout_{hex}00"),
            format!("tagout_{}", hex.to_uppercase()),
            format!("tagout_{hex}\n"),
            format!("Tagout_{hex}"),
        ] {
            assert_eq!(bad.parse::<Token>(), Err(NotAToken), "{bad:?}");
        }
    }
}
