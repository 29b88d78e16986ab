//! The folder of stops: whoever can write to it stops agents of this host with one signature, whatever the network does (S6).
//!
//! It is looked at several times a second instead of watched: that works on every file system, and needs no more.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tagout_proto::digest::Digest;
use tagout_proto::envelope::Envelope;
use tagout_proto::limits::{COMMAND_MAX_BYTES, SIGNATURE_MAX_BYTES};
use tagout_proto::scope::Scope;
use tagout_proto::wire::StopPath;

use crate::deliver::{DeliverError, Delivered, Deliveries};
use crate::limits::*;

/// How the folder of stops stands.
#[derive(Clone, Debug)]
pub struct StopFolder {
    pub path: PathBuf,
    /// What keeps it, or a part of it, from being read.
    pub problem: Option<String>,
    /// By name.
    pub files: Vec<StopFile>,
}

/// One `NAME.json`, with its signature in `NAME.json.sig`.
#[derive(Clone, Debug)]
pub struct StopFile {
    pub path: PathBuf,
    pub found: Found,
}

/// What a file turned out to be.
#[derive(Clone, Debug)]
pub enum Found {
    /// It took effect for these agents when it was read. For those that come later it does so too.
    Taken {
        document: Digest,
        agents: Vec<Scope>,
    },
    /// Its lock has ended: it stops nobody any more. Take it away, and sign a new one where one shall lie ready.
    Used {
        lock: Digest,
    },
    Refused(Arc<StopFileError>),
}

#[derive(Debug, thiserror::Error)]
pub enum StopFileError {
    #[error("it cannot be read: {0}")]
    Read(#[source] io::Error),
    #[error("it is no plain file")]
    NoFile,
    #[error("it has more than {0} bytes")]
    TooLarge(usize),
    #[error("it is no UTF-8 text")]
    NoText,
    #[error("its signature is missing: put NAME.json.sig beside it, as ssh-keygen -Y sign writes it")]
    Unsigned,
    #[error("its signature: {0}")]
    Signature(#[source] Box<StopFileError>),
    #[error(transparent)]
    Deliver(#[from] DeliverError),
}

/// What is known of the folder, for the driver and for whoever asks.
pub(crate) struct Known(Mutex<StopFolder>);

impl Known {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self(Mutex::new(StopFolder { path, problem: None, files: Vec::new() }))
    }

    pub(crate) fn get(&self) -> StopFolder {
        self.0.lock().clone()
    }

    /// Says of the files with this lock that it has ended.
    pub(crate) fn ended(&self, lock: Digest) {
        for file in &mut self.0.lock().files {
            if matches!(&file.found, Found::Taken { document, .. } if *document == lock) {
                say_used(&file.path, lock);
                file.found = Found::Used { lock };
            }
        }
    }

    fn say(&self, name: &OsString, found: Found) {
        let mut folder = self.0.lock();
        let path = folder.path.join(name);
        match folder.files.binary_search_by(|file| file.path.cmp(&path)) {
            Ok(at) => folder.files[at].found = found,
            Err(at) => folder.files.insert(at, StopFile { path, found }),
        }
    }

    fn forget(&self, names: &[OsString]) {
        let mut folder = self.0.lock();
        let gone: Vec<_> = names.iter().map(|name| folder.path.join(name)).collect();
        folder.files.retain(|file| !gone.contains(&file.path));
    }

    fn trouble(&self, problem: Option<String>) {
        let mut folder = self.0.lock();
        if let Some(problem) = problem.as_ref().filter(|_| folder.problem != problem) {
            tracing::error!(target: "tagout", folder = %folder.path.display(), problem, "the folder of stops is not read");
        }
        folder.problem = problem;
    }
}

fn say_used(path: &Path, lock: Digest) {
    tracing::error!(
        target: "tagout", file = %path.display(), %lock,
        "this stop was used: its lock has ended, and it stops nobody any more; sign a new one"
    );
}

/// Looks at the folder again and again, as long as the client lives.
pub(crate) async fn follow(known: Arc<Known>, deliveries: Deliveries) {
    let mut folder = Folder { path: known.get().path, seen: BTreeMap::new() };
    loop {
        // A file system that hangs holds this one thread, and nothing else.
        let look = tokio::task::spawn_blocking(move || {
            let looked = folder.look();
            (folder, looked)
        });
        // Only the end of the runtime ends it otherwise.
        let Ok((looked_at, looked)) = look.await else { return };
        folder = looked_at;
        match looked {
            Ok(look) => {
                known.trouble(look.problem());
                known.forget(&look.gone);
                for file in look.read {
                    let outcome = match file.stop {
                        Ok(stop) => deliveries.bring(stop, StopPath::File).await.map_err(StopFileError::from),
                        Err(error) => Err(error),
                    };
                    folder.judge(file.name, file.prints, outcome, &known);
                }
            }
            Err(error) => known.trouble(Some(error.to_string())),
        }
        tokio::time::sleep(Duration::from_millis(STOP_FOLDER_LOOK_MS)).await;
    }
}

/// The folder as it was at the last look.
struct Folder {
    path: PathBuf,
    seen: BTreeMap<OsString, Seen>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Seen {
    prints: [Print; 2],
    /// It was no stop at the first look: perhaps it was being written.
    doubtful: bool,
}

/// What changes when a file does; `None` where there is none.
type Print = Option<[i64; 6]>;

struct Look {
    /// What is new, has changed or was doubtful.
    read: Vec<Unjudged>,
    gone: Vec<OsString>,
    too_many: bool,
}

struct Unjudged {
    name: OsString,
    prints: [Print; 2],
    stop: Result<Envelope, StopFileError>,
}

impl Folder {
    fn look(&mut self) -> io::Result<Look> {
        let mut names = BTreeSet::new();
        let mut too_many = false;
        for (nth, entry) in std::fs::read_dir(&self.path)?.enumerate() {
            too_many |= nth >= STOP_FOLDER_NAMES_MAX;
            if too_many {
                break;
            }
            let name = entry?.file_name();
            if Path::new(&name).extension().is_some_and(|extension| extension == "json") {
                names.insert(name);
            }
        }
        while names.len() > STOP_FILES_MAX {
            names.pop_last();
            too_many = true;
        }
        let gone: Vec<_> = self.seen.keys().filter(|name| !names.contains(*name)).cloned().collect();
        self.seen.retain(|name, _| names.contains(name));
        let mut read = Vec::new();
        for name in names {
            let [document, signature] = [self.path.join(&name), self.signature_of(&name)];
            let prints = [print(&document), print(&signature)];
            if self.seen.get(&name) != Some(&Seen { prints, doubtful: false }) {
                read.push(Unjudged { name, prints, stop: read_pair(&document, &signature) });
            }
        }
        Ok(Look { read, gone, too_many })
    }

    fn signature_of(&self, name: &OsString) -> PathBuf {
        let mut name = name.clone();
        name.push(".sig");
        self.path.join(name)
    }

    /// Notes what became of a file. One that is no stop is told of once, when it is so at two looks.
    fn judge(
        &mut self,
        name: OsString,
        prints: [Print; 2],
        outcome: Result<Delivered, StopFileError>,
        known: &Known,
    ) {
        let doubted = self.seen.get(&name) == Some(&Seen { prints, doubtful: true });
        let mut doubtful = false;
        match outcome {
            Ok(Delivered { document, agents }) => known.say(&name, Found::Taken { document, agents }),
            Err(StopFileError::Deliver(DeliverError::Used { lock })) => {
                say_used(&self.path.join(&name), lock);
                known.say(&name, Found::Used { lock });
            }
            Err(error) if doubted => {
                let file = self.path.join(&name);
                tracing::error!(target: "tagout", file = %file.display(), %error, "a file that is no stop");
                known.say(&name, Found::Refused(Arc::new(error)));
            }
            Err(_) => doubtful = true,
        }
        self.seen.insert(name, Seen { prints, doubtful });
    }
}

impl Look {
    fn problem(&self) -> Option<String> {
        self.too_many.then(|| {
            format!("it has more than {STOP_FILES_MAX} stops or {STOP_FOLDER_NAMES_MAX} names; the rest is not read")
        })
    }
}

fn print(path: &Path) -> Print {
    // Links are followed: that is how Kubernetes puts files into a folder.
    let found = std::fs::metadata(path).ok()?;
    let (ino, size) = (found.ino().cast_signed(), found.size().cast_signed());
    Some([ino, size, found.mtime(), found.mtime_nsec(), found.ctime(), found.ctime_nsec()])
}

fn read_pair(document: &Path, signature: &Path) -> Result<Envelope, StopFileError> {
    let document = read_text(document, COMMAND_MAX_BYTES)?;
    let signature = match read_text(signature, SIGNATURE_MAX_BYTES) {
        Err(StopFileError::Read(error)) if error.kind() == io::ErrorKind::NotFound => {
            return Err(StopFileError::Unsigned);
        }
        read => read.map_err(|error| StopFileError::Signature(Box::new(error)))?,
    };
    Ok(Envelope { document, signatures: vec![signature] })
}

fn read_text(path: &Path, max_bytes: usize) -> Result<String, StopFileError> {
    // A pipe must not make anybody wait for who writes to it.
    let no_wait = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(no_wait).open(path).map_err(StopFileError::Read)?;
    if !file.metadata().map_err(StopFileError::Read)?.is_file() {
        return Err(StopFileError::NoFile);
    }
    let mut bytes = Vec::new();
    file.take(max_bytes as u64 + 1).read_to_end(&mut bytes).map_err(StopFileError::Read)?;
    if bytes.len() > max_bytes {
        return Err(StopFileError::TooLarge(max_bytes));
    }
    String::from_utf8(bytes).map_err(|_| StopFileError::NoText)
}
