//! A log that promises what it does not do: it never syncs. It shows that a lost write is found.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;

use crate::cuts::{Target, disk_failed};

pub struct Careless;

impl Target for Careless {
    fn write(&self, folder: &Path, _seed: u64, _round: u64) {
        fs::create_dir_all(folder).expect("a folder can be made");
        let synced = fs::File::open(folder.parent().expect("the folder is in the mounted one"));
        synced.and_then(|folder| folder.sync_all()).expect("a folder can be synced");
        let mut file = OpenOptions::new().create(true).append(true).open(folder.join("log")).expect("a log");
        for n in file.metadata().expect("a length").len().. {
            file.write_all(b"x").unwrap_or_else(disk_failed);
            println!("acknowledged {n}");
            if n % 64 == 0 {
                // The disk has to have something to do, or its power would not go.
                let other = fs::File::create(folder.join("other")).and_then(|mut other| {
                    other.write_all(&n.to_le_bytes())?;
                    other.sync_data()
                });
                other.unwrap_or_else(disk_failed);
            }
        }
    }

    fn check(&mut self, folder: &Path, _: u64, _: u64, acknowledged: Option<u64>) -> Result<String, String> {
        let found = fs::metadata(folder.join("log")).map_or(0, |m| m.len());
        match acknowledged {
            Some(last) if found <= last => Err(format!("found {found} entries")),
            _ => Ok(format!("found {found} entries")),
        }
    }
}
