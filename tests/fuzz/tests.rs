//! A fuzzer that finds nothing may be a broken one.

use super::*;

/// Takes `{"n":<number>}`, and has three faults.
fn faulty(input: &[u8], fault: u8) -> Answer {
    let parsed = serde_json::from_slice::<serde_json::Value>(input);
    if let Ok(value) = &parsed {
        match fault {
            0 => assert_ne!(value["n"], u64::MAX),
            1 if value["n"] == 0 => drop(vec![0u8; 64 << 20]),
            2 if value.get("n").is_none() => check_sentence(&"x".repeat(SENTENCE_MAX_BYTES + 1)),
            _ => {}
        }
    }
    Answer::of(&parsed)
}

fn run(name: &'static str, fault: u8) -> std::thread::Result<()> {
    let target =
        Target::new(name, [r#"{"n":7}"#]).make(|random| mutate::json(random, r#"{"n":7}"#).into_bytes());
    let folder = target.folder();
    let ended = catch_unwind(AssertUnwindSafe(|| target.check(|input| faulty(input, fault))));
    let kept = fs::read_dir(&folder).map_or(0, Iterator::count);
    let _ = fs::remove_dir_all(&folder);
    assert_eq!(kept, usize::from(ended.is_err()), "what fails is kept, and nothing else");
    ended
}

#[test]
fn it_finds_a_value_an_allocation_and_a_sentence() {
    for fault in 0..3 {
        let name = ["self-test-value", "self-test-memory", "self-test-sentence"][usize::from(fault)];
        assert!(run(name, fault).is_err(), "fault {fault} was not found");
    }
}

#[test]
fn it_refuses_a_target_whose_inputs_are_all_alike() {
    for answer in [Answer::Taken, Answer::Refused] {
        let target = Target::new("self-test-alike", ["x"]);
        let check = |input: &[u8]| if input == b"x" { Answer::Taken } else { answer };
        assert!(catch_unwind(AssertUnwindSafe(|| target.check(check))).is_err(), "{answer:?}");
    }
}

#[test]
fn a_seed_repeats_a_run() {
    let run = || {
        let mut random = Random::new(7);
        (0..1000).map(|_| mutate::json(&mut random, r#"{"a":[1,{"b":"c"}]}"#)).collect::<Vec<_>>()
    };
    assert_eq!(run(), run());
}
