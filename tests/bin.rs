//! Our own programs, as cargo built them beside the test binary.

use std::path::PathBuf;

/// The `tagout` command.
pub fn tagout() -> PathBuf {
    built("tagout")
}

/// What tests run as a process of its own (helper/).
pub fn helper() -> PathBuf {
    built("tagout-test-helper")
}

fn built(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a process knows its own path");
    // target/release/deps/<test binary>
    let folder = test.ancestors().nth(2).expect("a test binary lies in target/release/deps");
    let path = folder.join(name);
    assert!(
        path.is_file(),
        "{} is missing: run `cargo build --release --workspace --exclude tagout-frameworks --all-targets` first",
        path.display()
    );
    path
}
