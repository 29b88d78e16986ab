//! A deployment with real keys, for the tests of this folder.

use std::path::Path;

use tagout_proto::sshsig::PublicKey;
use tempfile::TempDir;

use super::files::read_public_key;
use super::init::{self, Made, Plan};
use super::node_folder::NodePlan;
use crate::sign::{Signer, Surroundings, generate};
use crate::store::StoreKind;

pub(crate) struct Keys {
    dir: TempDir,
}

impl Keys {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["alice", "bob", "soar", "root", "spare", "stranger"] {
            generate(&dir.path().join(name), name, None).unwrap();
        }
        Self { dir }
    }

    pub(crate) fn public(&self, name: &str) -> PublicKey {
        read_public_key(&self.dir.path().join(format!("{name}.pub"))).unwrap()
    }

    pub(crate) fn signer(&self, name: &str) -> Signer {
        Signer::open_with(self.dir.path().join(name).to_str().unwrap(), &Surroundings::default()).unwrap()
    }

    /// Alice and Bob restart together; the automation `soar` only stops.
    pub(crate) fn plan(&self, dir: &Path) -> Plan {
        let named = |name: &str| (name.to_owned(), self.public(name));
        Plan {
            name: "demo".into(),
            dir: dir.into(),
            people: vec![named("alice"), named("bob")],
            automation: vec![named("soar")],
            threshold: 2,
            root_keys: vec![named("root")],
            root_threshold: 1,
            nodes: vec![NodePlan::new(
                "node-1",
                1,
                "127.0.0.1:7470".parse().unwrap(),
                vec!["localhost".into()],
            )],
            ttl_ms: 10_000,
            enrolment: true,
            store: StoreKind::default(),
            readers: init::Readers::Token,
            keys: vec![self.dir.path().join("alice").to_string_lossy().into_owned()],
        }
    }
}

pub(crate) struct Deployed {
    pub(crate) keys: Keys,
    pub(crate) dir: TempDir,
    pub(crate) made: Made,
}

impl Deployed {
    pub(crate) fn plan(&self) -> Plan {
        self.keys.plan(self.dir.path())
    }
}

pub(crate) fn deployed() -> Deployed {
    let (keys, dir) = (Keys::new(), tempfile::tempdir().unwrap());
    let made = init::make(&keys.plan(dir.path()), &[keys.signer("root")]).unwrap();
    assert_eq!(made.signatures_missing, 0);
    Deployed { keys, dir, made }
}
