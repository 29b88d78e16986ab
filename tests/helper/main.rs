//! What tests run as a process of its own, so that it can be traced, frozen or cut off.

mod careless;
mod cuts;
mod disk;
mod guards;
mod log_writer;
mod newer;
mod proposer;
mod tile_writer;

use std::path::Path;

use tagout_control_plane::store::StoreKind;

fn main() {
    // A test that is killed takes its processes with it.
    let with_parent = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    with_parent.expect("a process may ask to end with its parent");

    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse::<u64>().unwrap_or_else(|e| panic!("{text}: {e}"));
    match args[..] {
        ["cut-power", target, folder, seed, rounds] => {
            cuts::run(target, Path::new(folder), number(seed), number(rounds))
        }
        ["disk", image, folder] => disk::serve(Path::new(image), Path::new(folder)),
        ["guards", profile, scope, count] => guards::run(Path::new(profile), scope, number(count)),
        ["write", target, folder, seed, round] => {
            cuts::target(target).write(Path::new(folder), number(seed), number(round))
        }
        ["serve-newer", config] => newer::serve(Path::new(config)),
        ["propose", store, folder, tasks, each] => {
            proposer::run(store_kind(store), Path::new(folder), number(tasks), number(each))
        }
        _ => panic!("this is started by tests only; it does not know {args:?}"),
    }
}

fn store_kind(name: &str) -> StoreKind {
    match name {
        "sled" => StoreKind::Sled,
        "segment" => StoreKind::Segment,
        _ => panic!("no store is called {name}"),
    }
}
