//! Whole files that appear at once or not at all.
//!
//! Both ways of writing go through a temporary file in the same folder (`.<name>.<pid>.<n>.tmp`), which is synced
//! before it gets its name, and sync the folder after. A crash at any line leaves either no file of that name or the
//! whole file, and perhaps a temporary one, which [`sweep_temporaries`] removes at the next start.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// How much of a file is written at once. The page cache keeps a piece as one folio, and each later write into a segment
/// costs as much as its folio is large.
const PIECE_BYTES: usize = 16 << 10;

/// Creates `path` with exactly these bytes, read-only for everybody (0444); when this returns, both are durable.
///
/// A file that is there already is never touched: equal bytes are success, because a replay after a crash writes the
/// same file again, and anything else is [`io::ErrorKind::AlreadyExists`].
pub fn create_once(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = write_temporary(path, bytes, 0o444)?;
    // link(2) refuses to replace what is there, as O_EXCL does, but gives the name to a complete file only: a crash
    // in the middle of writing would otherwise leave half a file that no replay could ever equal.
    let linked = fs::hard_link(&temporary, path);
    fs::remove_file(&temporary)?;
    match linked {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            if !holds_exactly(path, bytes)? {
                return Err(io::Error::new(
                    io::ErrorKind::AlreadyExists,
                    format!(
                        "{} is there with other content; it is written once and never replaced",
                        path.display()
                    ),
                ));
            }
        }
        Err(e) => return Err(e),
    }
    // Also when it was there: whoever made it may have crashed just before this line.
    sync_folder(folder_of(path))
}

/// Makes `path` hold exactly these bytes, in place of whatever it held; durable when this returns. A crash leaves the
/// old content or the new, whole.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = write_temporary(path, bytes, 0o644)?;
    fs::rename(&temporary, path)?;
    sync_folder(folder_of(path))
}

/// Creates a folder and those above it; durable when this returns.
pub fn create_folder(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = folder_of(path);
    create_folder(parent)?;
    match fs::create_dir(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    sync_folder(parent)
}

/// Makes the names in a folder durable: what was created, renamed or removed in it.
pub fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Removes what a crash left half-written, and makes durable what it left whole: a name may have been given and not
/// synced yet. Only the folder's owner may call it, before it reads or writes there.
pub fn sweep_temporaries(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with('.') && name.ends_with(".tmp") && entry.file_type()?.is_file() {
            fs::remove_file(entry.path())?;
        }
    }
    sync_folder(folder)
}

fn write_temporary(path: &Path, bytes: &[u8], mode: u32) -> io::Result<PathBuf> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidInput, format!("{} does not name a file", path.display()))
    })?;
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let temporary =
        folder_of(path).join(format!(".{}.{}.{number}.tmp", name.to_string_lossy(), std::process::id()));
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        bytes.chunks(PIECE_BYTES).try_for_each(|piece| file.write_all(piece))?;
        file.set_permissions(Permissions::from_mode(mode))?;
        file.sync_all()
    })();
    match written {
        Ok(()) => Ok(temporary),
        Err(e) => {
            // Best effort: the first error is the one to report, and a leftover is swept at the next start.
            let _ = fs::remove_file(&temporary);
            Err(e)
        }
    }
}

fn holds_exactly(path: &Path, bytes: &[u8]) -> io::Result<bool> {
    let mut file = File::open(path)?;
    if file.metadata()?.len() != bytes.len() as u64 {
        return Ok(false);
    }
    let mut found = Vec::with_capacity(bytes.len());
    file.read_to_end(&mut found)?;
    Ok(found == bytes)
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_once_file_is_read_only_and_may_only_be_written_again_with_the_same_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tile");
        create_once(&path, b"sealed").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o444);
        create_once(&path, b"sealed").unwrap();
        for other in [&b"SEALED"[..], b"seale", b"sealed!", b""] {
            assert_eq!(create_once(&path, other).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        }
        assert_eq!(fs::read(&path).unwrap(), b"sealed");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn replace_swaps_the_whole_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("checkpoint");
        replace(&path, b"a long first content").unwrap();
        replace(&path, b"second").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_sweep_takes_leftovers_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        for name in [".tile.1.0.tmp", "tile", ".hidden", "x.tmp"] {
            fs::write(dir.path().join(name), b"").unwrap();
        }
        sweep_temporaries(dir.path()).unwrap();
        let mut left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, [".hidden", "tile", "x.tmp"]);
    }
}
