//! Small files, written so that nothing is lost: new ones only where none is, replacements as a whole.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use tagout_proto::sshsig::PublicKey;

use super::failure::{Exit, Failure};

pub fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Failure> {
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let mut file = file.map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => {
            let path = path.display();
            let detail =
                format!("{path} exists already and is left as it is: choose another name, or move it away");
            Failure::new(Exit::Failed, "exists", detail)
        }
        _ => Failure::file("write", path, &error),
    })?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(|e| Failure::file("write", path, &e))
}

/// Replaces a file as a whole: a crash leaves the old one or the new one.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    replace_with(path, bytes, None)
}

/// As [`replace`], with these permissions from the start.
pub fn replace_with(path: &Path, bytes: &[u8], permissions: Option<fs::Permissions>) -> Result<(), Failure> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let new = PathBuf::from(name);
    let written = fs::File::create(&new)
        .and_then(|mut file| {
            permissions.map_or(Ok(()), |permissions| file.set_permissions(permissions))?;
            file.write_all(bytes).and_then(|()| file.sync_all())
        })
        .and_then(|()| fs::rename(&new, path));
    written.map_err(|error| {
        let _ = fs::remove_file(&new);
        Failure::file("write", path, &error)
    })
}

pub fn read_public_key(path: &Path) -> Result<PublicKey, String> {
    let line = fs::read_to_string(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    PublicKey::parse_openssh(line.trim()).map_err(|e| format!("{}: {e}", path.display()))
}

/// A path as a shell reads it.
pub fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%,=".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.into_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_files_never_replace_and_replacements_are_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        write_new(&path, b"1", 0o600).unwrap();
        assert!(write_new(&path, b"2", 0o600).unwrap_err().to_string().contains("left as it is"));
        assert_eq!(fs::read(&path).unwrap(), b"1");
        replace(&path, b"3").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"3");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn paths_survive_the_shell() {
        assert_eq!(quoted(Path::new("/a/b-c.json")), "/a/b-c.json");
        assert_eq!(quoted(Path::new("it's here")), r"'it'\''s here'");
    }
}
