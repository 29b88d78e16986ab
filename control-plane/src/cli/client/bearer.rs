//! What shows the nodes that whoever runs this command may read: an API token, or a token of the issuer. It goes with what is
//! read and what gives, and never with what takes away, which needs none; and that it is missing or cannot be read keeps
//! nothing from being sent (S10).

use std::ffi::OsString;
use std::path::Path;

use reqwest::header::HeaderValue;
use zeroize::Zeroizing;

use super::Failure;

const VARIABLE: &str = "TAGOUT_API_TOKEN";
const TOKEN_MAX_BYTES: u64 = 16 * 1024;

#[derive(Default)]
pub struct Bearer {
    pub header: Option<HeaderValue>,
    /// Why there is none, where somebody may have thought otherwise.
    why: Option<String>,
}

impl Bearer {
    /// The one in the file that was named, or of the environment, or in the profile's file.
    pub fn find(named: Option<&Path>, of_profile: Option<&Path>) -> Self {
        Self::first(named, std::env::var_os(VARIABLE), of_profile)
    }

    fn first(named: Option<&Path>, variable: Option<OsString>, of_profile: Option<&Path>) -> Self {
        let variable = variable.filter(|text| !text.is_empty());
        let found = match (named, variable, of_profile) {
            (Some(path), _, _) => {
                read(path).and_then(|text| header(&text, &format!("in {}", path.display())))
            }
            (None, Some(text), _) => {
                let text = Zeroizing::new(text.to_string_lossy().into_owned());
                header(&text, &format!("in {VARIABLE}"))
            }
            (None, None, Some(path)) => {
                read(path).and_then(|text| header(&text, &format!("in {}", path.display())))
            }
            (None, None, None) => {
                return Self {
                    header: None,
                    why: Some(format!("the profile has no line token = \"FILE\", and {VARIABLE} is not set")),
                };
            }
        };
        match found {
            Ok(header) => Self { header: Some(header), why: None },
            Err(why) => Self { header: None, why: Some(why) },
        }
    }

    /// Says of a refusal why nothing was shown.
    pub fn explain(&self, mut failure: Failure) -> Failure {
        if failure.problem.code == "no-identity"
            && let Some(why) = &self.why
        {
            failure.problem.detail = format!("{}. Here nothing was sent: {why}", failure.problem.detail);
        }
        failure
    }
}

fn read(path: &Path) -> Result<Zeroizing<String>, String> {
    let cannot = |e: std::io::Error| format!("the token file {} cannot be read: {e}", path.display());
    if std::fs::metadata(path).map_err(cannot)?.len() > TOKEN_MAX_BYTES {
        return Err(format!("{} is no token file: it has more than {TOKEN_MAX_BYTES} bytes", path.display()));
    }
    std::fs::read_to_string(path).map(Zeroizing::new).map_err(cannot)
}

fn header(text: &str, place: &str) -> Result<HeaderValue, String> {
    let token = text.trim();
    if token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(format!("what is {place} is no token: it is one word"));
    }
    let bearer = Zeroizing::new(format!("Bearer {token}"));
    let mut value = HeaderValue::from_str(&bearer).map_err(|_| format!("what is {place} is no token"))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::failure::Exit;

    #[test]
    fn the_named_file_then_the_environment_then_the_profile() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let (named, profile) = (file("named", "one\n"), file("profile", "three"));
        let shown = |bearer: Bearer| bearer.header.map(|value| value.to_str().unwrap().to_owned());
        let variable = || Some(OsString::from("two"));
        let first = |named: Option<&Path>, variable, profile: Option<&Path>| {
            shown(Bearer::first(named, variable, profile))
        };
        assert_eq!(first(Some(&named), variable(), Some(&profile)).unwrap(), "Bearer one");
        assert_eq!(first(None, variable(), Some(&profile)).unwrap(), "Bearer two");
        assert_eq!(first(None, Some(OsString::new()), Some(&profile)).unwrap(), "Bearer three");
        assert_eq!(first(None, None, None), None);
    }

    #[test]
    fn what_keeps_a_token_from_being_sent_is_said_with_the_refusal() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let refused = || Failure::new(Exit::Refused, "no-identity", "reading takes an identity");
        let said = |of: Option<&Path>| Bearer::first(None, None, of).explain(refused()).to_string();
        assert!(said(None).contains("the profile has no line token"), "{}", said(None));
        assert!(said(Some(&path)).contains("cannot be read"), "{}", said(Some(&path)));
        for wrong in ["", "two words", "\u{1}"] {
            std::fs::write(&path, wrong).unwrap();
            assert!(said(Some(&path)).contains("is one word"), "{}", said(Some(&path)));
        }
        let other = Failure::new(Exit::Refused, "no-role", "no");
        assert_eq!(Bearer::first(None, None, None).explain(other).to_string(), "no");
    }
}
