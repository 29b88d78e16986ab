//! What people write for a node beside its configuration: who may read, which webhooks it takes, whom it tells; and the secrets
//! that these files name.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

const FILE_MAX_BYTES: u64 = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{} has more than {FILE_MAX_BYTES} bytes", path.display())]
    TooLarge { path: PathBuf },
    #[error("{} is {what}", path.display())]
    Parse {
        path: PathBuf,
        what: &'static str,
        #[source]
        source: Box<toml::de::Error>,
    },
}

pub fn read(path: &Path) -> Result<Zeroizing<String>, FileError> {
    let failed = |source| FileError::Read { path: path.into(), source };
    if std::fs::metadata(path).map_err(failed)?.len() > FILE_MAX_BYTES {
        return Err(FileError::TooLarge { path: path.into() });
    }
    std::fs::read_to_string(path).map(Zeroizing::new).map_err(failed)
}

/// The text of `path` as TOML. `what` is said where it is none, such as "no file of webhooks".
pub fn parse<T: DeserializeOwned>(path: &Path, text: &str, what: &'static str) -> Result<T, FileError> {
    toml::from_str(text).map_err(|source| FileError::Parse { path: path.into(), what, source: source.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_too_large_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("webhooks.toml");
        std::fs::write(&path, " ".repeat(FILE_MAX_BYTES as usize)).unwrap();
        assert_eq!(read(&path).unwrap().len() as u64, FILE_MAX_BYTES);
        std::fs::write(&path, " ".repeat(FILE_MAX_BYTES as usize + 1)).unwrap();
        assert!(read(&path).unwrap_err().to_string().ends_with("has more than 1048576 bytes"));
    }
}
