//! OCSF lines in a file, for whatever ships files to a SIEM. It turns over, and a bounded number of older ones stays.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::Answer;
use crate::notify::event::Event;
use crate::notify::format::ocsf;

#[derive(Clone)]
pub struct FileTarget {
    pub path: PathBuf,
    pub max_bytes: u64,
    /// Older files that stay beside it.
    pub keep: u32,
}

impl FileTarget {
    pub async fn write(&self, event: &Event) -> Answer {
        let (this, line) = (self.clone(), format!("{}\n", ocsf(event)));
        match crate::blocking(move || this.append(line.as_bytes())).await {
            Ok(()) => Answer::Taken("written".into()),
            Err(error) => Answer::Later { why: format!("{}: {error}", self.path.display()), after: None },
        }
    }

    /// Durable when this returns: the cursor behind it must not be ahead of it after a crash. The file is opened anew each
    /// time, since others may have moved it.
    fn append(&self, line: &[u8]) -> io::Result<()> {
        let mut file = open(&self.path)?;
        if file.metadata()?.len() + line.len() as u64 > self.max_bytes {
            self.turn_over()?;
            file = open(&self.path)?;
        }
        // A crash or a full disk may have left half a line.
        let torn = file.seek(SeekFrom::End(-1)).is_ok() && {
            let mut last = [0];
            file.read_exact(&mut last)?;
            last != *b"\n"
        };
        if torn {
            file.write_all(b"\n")?;
        }
        file.write_all(line)?;
        file.sync_data()
    }

    fn turn_over(&self) -> io::Result<()> {
        let older = |n: u32| {
            let mut name = self.path.clone().into_os_string();
            name.push(format!(".{n}"));
            PathBuf::from(name)
        };
        let moved = |from: &Path, to: &Path| match std::fs::rename(from, to) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
        for n in (1..self.keep).rev() {
            moved(&older(n), &older(n + 1))?;
        }
        moved(&self.path, &older(1))
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).append(true).create(true).mode(0o640).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_stay_bounded_and_lines_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ocsf.jsonl");
        let target = FileTarget { path: path.clone(), max_bytes: 100, keep: 2 };
        for n in 0..20 {
            target.append(format!("{{\"n\":{n:02}}}{}\n", " ".repeat(22)).as_bytes()).unwrap();
        }
        let mut files: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        assert_eq!(files, ["ocsf.jsonl", "ocsf.jsonl.1", "ocsf.jsonl.2"]);
        let newest = std::fs::read_to_string(&path).unwrap();
        assert!(newest.len() <= 100 && newest.contains("\"n\":19"), "{newest}");

        std::fs::write(&path, "{\"half").unwrap();
        target.append(b"{}\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"half\n{}\n");
    }
}
