//! Scopes: the paths that commands name. An agent is a scope; a scope covers itself and all below it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::limits::{SCOPE_SEGMENT_MAX_BYTES, SCOPE_SEGMENTS_MAX};

/// The whole fleet.
pub const FLEET: &str = "*";

/// `moltbook/support/agent_22`, or `*` for the whole fleet. Case counts.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope(String);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScopeError {
    #[error("a scope is empty; write a path such as moltbook/support/agent_22, or * for the whole fleet")]
    Empty,
    #[error("scope {0:?} has an empty segment; use single slashes between segments and none at the ends")]
    EmptySegment(String),
    #[error("scope {0:?} has more than {SCOPE_SEGMENTS_MAX} segments")]
    TooDeep(String),
    #[error("scope {0:?} has a segment of more than {SCOPE_SEGMENT_MAX_BYTES} bytes")]
    SegmentTooLong(String),
    #[error("scope {0:?} may not have . or .. as a segment")]
    DotSegment(String),
    #[error("scope {0:?} may hold only A-Z a-z 0-9 . _ - between its slashes (* stands alone for the fleet)")]
    BadCharacter(String),
}

impl Scope {
    pub fn fleet() -> Self {
        Self(FLEET.into())
    }

    pub fn parse(text: &str) -> Result<Self, ScopeError> {
        if text == FLEET {
            return Ok(Self::fleet());
        }
        if text.is_empty() {
            return Err(ScopeError::Empty);
        }
        // A hostile scope may be as long as its document: name only its beginning in the error.
        let shown = || text.chars().take(80).collect::<String>();
        let mut segments = 0;
        for segment in text.split('/') {
            segments += 1;
            if segments > SCOPE_SEGMENTS_MAX {
                return Err(ScopeError::TooDeep(shown()));
            }
            if segment.is_empty() {
                return Err(ScopeError::EmptySegment(shown()));
            }
            if segment.len() > SCOPE_SEGMENT_MAX_BYTES {
                return Err(ScopeError::SegmentTooLong(shown()));
            }
            if segment == "." || segment == ".." {
                return Err(ScopeError::DotSegment(shown()));
            }
            if !segment.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')) {
                return Err(ScopeError::BadCharacter(shown()));
            }
        }
        Ok(Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn is_fleet(&self) -> bool {
        self.0 == FLEET
    }

    /// Whether `self` is `other` or one of its ancestors.
    pub fn covers(&self, other: &Scope) -> bool {
        self.is_fleet()
            || other.0.strip_prefix(&self.0).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// The scope itself, then each ancestor up to the fleet: all that can hold a lock on it.
    pub fn upward(&self) -> impl Iterator<Item = Scope> + '_ {
        let own = (!self.is_fleet()).then_some(self.0.as_str());
        std::iter::successors(own, |path| path.rsplit_once('/').map(|(parent, _)| parent))
            .map(|path| Scope(path.into()))
            .chain(std::iter::once(Scope::fleet()))
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Scope {
    type Err = ScopeError;
    fn from_str(text: &str) -> Result<Self, ScopeError> {
        Self::parse(text)
    }
}

impl Serialize for Scope {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Scope {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(text: &str) -> Scope {
        Scope::parse(text).unwrap()
    }

    #[test]
    fn covers_itself_and_below_but_no_lookalike() {
        assert!(scope("demo").covers(&scope("demo")));
        assert!(scope("demo").covers(&scope("demo/agent_2")));
        assert!(!scope("demo").covers(&scope("demo2")));
        assert!(!scope("demo/agent").covers(&scope("demo/agent_2")));
        assert!(!scope("demo/agent_2").covers(&scope("demo")));
        assert!(scope("*").covers(&scope("demo")) && scope("*").covers(&scope("*")));
        assert!(!scope("demo").covers(&scope("*")));
        assert!(!scope("Demo").covers(&scope("demo")));
    }

    #[test]
    fn upward_lists_every_scope_that_covers() {
        let all: Vec<_> = scope("a/b/c").upward().map(|s| s.to_string()).collect();
        assert_eq!(all, ["a/b/c", "a/b", "a", "*"]);
        assert_eq!(Scope::fleet().upward().count(), 1);
    }

    #[test]
    fn refuses_what_is_no_scope() {
        let long = "x".repeat(65);
        for bad in
            ["", "/a", "a/", "a//b", ".", "a/..", "a b", "a/*", "**", "é", "a\n", "a/b/c/d/e/f/g/h/i", &long]
        {
            assert!(Scope::parse(bad).is_err(), "{bad:?}");
        }
        assert!(Scope::parse("a/b/c/d/e/f/g/h").is_ok());
    }
}
