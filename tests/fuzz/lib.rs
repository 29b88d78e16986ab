//! Fuzzing of parsers.
//!
//! A target is a test: it names itself, shows what valid inputs look like, and says what must hold for any input. Every
//! run of the tests checks the kept inputs of `corpus/<target>/` and then at least [`INPUTS`] new ones, half of them
//! built from valid ones by the target itself, half changed without regard to their form. The same test is a target of
//! libFuzzer: see `tests/fuzz/guided`, which lets coverage choose the inputs.
//!
//! What fails is written to the corpus, and its seed is shown: `TAGOUT_FUZZ_SEED=<seed>` repeats the run.

#![cfg_attr(
    fuzzing_libfuzzer,
    allow(dead_code, unused_imports, reason = "libFuzzer makes the inputs and counts them")
)]

pub mod mutate;
pub mod random;

use std::fmt::Display;
use std::fs;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;

pub use random::Random;

/// New inputs for each target in every run, and with `TAGOUT_LONG` set.
pub const INPUTS: u64 = 100_000;
const INPUTS_LONG: u64 = 1_000_000;
/// One in so many inputs at least must be taken, and as many refused: a target whose inputs all look alike tests nothing.
const SHARE: u64 = 200;

/// The longest sentence about an input. Who sends a megabyte must not have it repeated in logs and answers.
pub const SENTENCE_MAX_BYTES: usize = 4096;
/// What reading may hold in memory at one time: so much at all, and so much for each byte of the input. JSON's small
/// objects cost the most; a length of 4 GiB in front of nothing is far beyond.
const MEMORY_MAX_BYTES: u64 = 1 << 20;
const MEMORY_PER_BYTE: u64 = 512;
/// What reading may take from the allocator in all, as a measure of work that no clock falsifies.
const WORK_PER_BYTE: u64 = 4 * MEMORY_PER_BYTE;

/// What became of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Taken,
    Refused,
}

impl Answer {
    pub fn taken(yes: bool) -> Self {
        if yes { Self::Taken } else { Self::Refused }
    }

    /// `Taken` if either is.
    pub fn or(self, other: Self) -> Self {
        Self::taken(self == Self::Taken || other == Self::Taken)
    }

    /// The answer in `result`, whose error must be a sentence that can be logged and shown.
    pub fn of<T, E: Display>(result: &Result<T, E>) -> Self {
        match result {
            Ok(_) => Self::Taken,
            Err(error) => {
                check_sentence(&error.to_string());
                Self::Refused
            }
        }
    }
}

/// Bounded, and without the control characters that would rewrite a terminal or forge a line of a log.
pub fn check_sentence(sentence: &str) {
    assert!(sentence.len() <= SENTENCE_MAX_BYTES, "a sentence of {} bytes: {sentence:.200}…", sentence.len());
    assert!(
        !sentence.chars().any(|c| c.is_control() && c != '\n'),
        "a sentence with control characters: {sentence:?}"
    );
}

/// Asks twice: the same bytes must be read alike.
#[track_caller]
pub fn same<T: PartialEq + std::fmt::Debug>(read: impl Fn() -> T) -> T {
    let first = read();
    assert_eq!(first, read(), "read twice, understood twice");
    first
}

type Make<'a> = Box<dyn Fn(&mut Random) -> Vec<u8> + 'a>;

/// One parser, or a few that read the same bytes.
pub struct Target<'a> {
    name: &'static str,
    seeds: Vec<Vec<u8>>,
    make: Option<Make<'a>>,
    extra_bytes: u64,
}

impl<'a> Target<'a> {
    /// `seeds` are valid, and come from the code under test: they change with the format.
    pub fn new<S: Into<Vec<u8>>>(name: &'static str, seeds: impl IntoIterator<Item = S>) -> Self {
        let seeds: Vec<Vec<u8>> = seeds.into_iter().map(Into::into).collect();
        assert!(!seeds.is_empty(), "{name} has no seed");
        Self { name, seeds, make: None, extra_bytes: 0 }
    }

    /// Builds inputs that know the form: most of each is still what the parser takes.
    pub fn make(mut self, make: impl Fn(&mut Random) -> Vec<u8> + 'a) -> Self {
        self.make = Some(Box::new(make));
        self
    }

    /// Memory that reading takes whatever the input is.
    pub fn extra_bytes(mut self, bytes: u64) -> Self {
        self.extra_bytes = bytes;
        self
    }

    /// Checks every kept input, and then new ones. `check` panics where something does not hold.
    pub fn check(self, check: impl Fn(&[u8]) -> Answer) {
        if cfg!(fuzzing_libfuzzer) && std::env::var_os("TAGOUT_FUZZ_NAME").is_some() {
            println!("TARGET {}", self.name);
            return;
        }
        let check = |input: &[u8]| {
            let mut answer = Answer::Refused;
            let used = allocation_counter::measure(|| answer = check(input));
            let bound = MEMORY_MAX_BYTES + self.extra_bytes + MEMORY_PER_BYTE * input.len() as u64;
            assert!(used.bytes_max <= bound, "{} bytes held for {} of input", used.bytes_max, input.len());
            let bound = 8 * MEMORY_MAX_BYTES + 8 * self.extra_bytes + WORK_PER_BYTE * input.len() as u64;
            assert!(
                used.bytes_total <= bound,
                "{} bytes used for {} of input",
                used.bytes_total,
                input.len()
            );
            answer
        };
        for seed in &self.seeds {
            assert_eq!(check(seed), Answer::Taken, "{}: a seed is refused: {}", self.name, shown(seed));
        }
        self.drive(&check);
    }

    #[cfg(not(fuzzing_libfuzzer))]
    fn drive(&self, check: &dyn Fn(&[u8]) -> Answer) {
        let kept = self.kept();
        for (path, input) in &kept {
            self.attempt(check, input, &format!("the kept input {}", path.display()));
        }
        let wanted = if std::env::var_os("TAGOUT_LONG").is_some() { INPUTS_LONG } else { INPUTS };
        let seed = random::seed();
        let mut random = Random::new(seed);
        let pool: Vec<&[u8]> =
            self.seeds.iter().chain(kept.iter().map(|(_, input)| input)).map(Vec::as_slice).collect();
        let (mut taken, mut refused, mut checked) = (0, 0, 0);
        while checked < wanted {
            let input = self.next(&mut random, &pool);
            match self.attempt(check, &input, &format!("input {checked} of TAGOUT_FUZZ_SEED={seed:#x}")) {
                Answer::Taken if pool.contains(&&*input) => {}
                Answer::Taken => taken += 1,
                Answer::Refused => refused += 1,
            }
            checked += 1;
        }
        let name = self.name;
        assert!(
            taken >= wanted / SHARE,
            "{name}: only {taken} new inputs of {checked} were taken: mend its seeds"
        );
        assert!(refused >= wanted / SHARE, "{name}: only {refused} inputs of {checked} were refused");
        // Read by tests/run, so not with println!, whose output is shown only when the test fails.
        let _ = writeln!(
            std::io::stdout(),
            "\nFUZZED {name} {checked} inputs, {taken} taken, {refused} refused, {} kept, seed {seed:#x}",
            kept.len()
        );
    }

    /// Runs libFuzzer, which never returns, on a folder that `tests/fuzz/guided` named and that begins with every seed.
    #[cfg(fuzzing_libfuzzer)]
    fn drive(&self, check: &dyn Fn(&[u8]) -> Answer) {
        let folder =
            PathBuf::from(std::env::var_os("TAGOUT_FUZZ_FOLDER").expect("run this with tests/fuzz/guided"));
        let mut random = Random::new(random::seed());
        let made = self.make.iter().flat_map(|make| (0..64).map(|_| make(&mut random)).collect::<Vec<_>>());
        let kept = self.kept().into_iter().map(|(_, input)| input);
        for input in self.seeds.iter().cloned().chain(kept).chain(made) {
            fs::write(folder.join(hash(&input)), input).unwrap();
        }
        let check = AssertUnwindSafe(check);
        bolero::check!().for_each(move |input: &[u8]| {
            check(input);
        });
    }

    #[cfg(not(fuzzing_libfuzzer))]
    fn next(&self, random: &mut Random, pool: &[&[u8]]) -> Vec<u8> {
        let made = |random: &mut Random| match &self.make {
            Some(make) => make(random),
            None => {
                let input = random.pick(pool);
                mutate::bytes(random, input, pool)
            }
        };
        match random.below(20) {
            0 => random.garbage(64),
            1..=10 => made(random),
            11..=13 => {
                let input = made(random);
                mutate::bytes(random, &input, pool)
            }
            _ => {
                let input = random.pick(pool);
                mutate::bytes(random, input, pool)
            }
        }
    }

    #[cfg(not(fuzzing_libfuzzer))]
    fn attempt(&self, check: &dyn Fn(&[u8]) -> Answer, input: &[u8], which: &str) -> Answer {
        match catch_unwind(AssertUnwindSafe(|| check(input))) {
            Ok(answer) => answer,
            Err(panic) => {
                let path = self.folder().join(format!("failed-{}", hash(input)));
                let kept = fs::create_dir_all(self.folder()).and_then(|()| fs::write(&path, input));
                let name = self.name;
                eprintln!("{name}: {which} failed: {}", shown(input));
                match kept {
                    Ok(()) => {
                        eprintln!("{name}: it is kept as {}; commit it with what mends this", path.display())
                    }
                    Err(error) => eprintln!("{name}: it cannot be kept as {}: {error}", path.display()),
                }
                resume_unwind(panic)
            }
        }
    }

    fn folder(&self) -> PathBuf {
        PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus")).join(self.name)
    }

    fn kept(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let mut kept: Vec<_> = fs::read_dir(self.folder())
            .into_iter()
            .flatten()
            .map(|file| file.unwrap().path())
            .map(|path| (path.clone(), fs::read(path).unwrap()))
            .collect();
        // The order of a folder is nobody's choice, and a seed must repeat a run elsewhere, too.
        kept.sort();
        kept
    }
}

/// FNV-1a: names only.
fn hash(input: &[u8]) -> String {
    let hash = input.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}

fn shown(input: &[u8]) -> String {
    let more = if input.len() > 600 { format!("… ({} bytes)", input.len()) } else { String::new() };
    format!("b\"{}\"{more}", input[..input.len().min(600)].escape_ascii())
}

#[cfg(all(test, not(fuzzing_libfuzzer)))]
mod tests;
