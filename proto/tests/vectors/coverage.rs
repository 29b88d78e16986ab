//! Every requirement of SPEC.md has a vector or a test, and no vector cites what is not there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;

use crate::cases::{TOPICS, file, folder, list, text};

struct Spec {
    /// By number, with its sentence.
    requirements: BTreeMap<u32, String>,
    /// Section 19: requirement, file and test.
    by_tests: Vec<(u32, String, String)>,
}

fn spec() -> Spec {
    let path = folder().parent().expect("proto").join("SPEC.md");
    let spec = std::fs::read_to_string(path).expect("SPEC.md");
    let mut requirements = BTreeMap::new();
    let mut by_tests = Vec::new();
    for line in spec.lines() {
        if let Some(rest) = line.strip_prefix("- <a id=\"m") {
            let (anchor, rest) = rest.split_once("\"></a>**M").expect("an anchor and a number");
            let (number, sentence) = rest.split_once("** ").expect("a number and a sentence");
            assert_eq!(anchor, number, "the anchor is the number");
            let fresh = requirements.insert(number.parse().expect("a number"), sentence.into()).is_none();
            assert!(fresh, "M{number} stands twice");
        }
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        if let [cited, file, test] = cells[..]
            && cited.starts_with('M')
            && file.ends_with(".rs`")
        {
            for cited in cited.split(", ") {
                let number = cited[1..].parse().expect("a number");
                by_tests.push((number, file.trim_matches('`').into(), test.trim_matches('`').into()));
            }
        }
    }
    Spec { requirements, by_tests }
}

/// All cases, with the steps of histories that are one.
fn cases() -> Vec<Value> {
    let topics = TOPICS.iter().flat_map(|topic| list(&file(topic)["cases"]).to_vec());
    let histories = file("history");
    let steps = list(&histories["histories"]).iter().flat_map(|history| list(&history["steps"]));
    topics.chain(steps.filter(|step| step.get("name").is_some()).cloned()).collect()
}

#[test]
fn there_are_enough_cases_of_both_kinds() {
    let cases = cases();
    let accepts = cases.iter().filter(|case| case["expect"].get("accept").is_some()).count();
    let rejects = cases.iter().filter(|case| case["expect"].get("reject").is_some()).count();
    assert_eq!(accepts + rejects, cases.len(), "every case accepts or rejects");
    assert!(accepts >= 200 && rejects >= 200, "{accepts} accept, {rejects} reject");
}

#[test]
fn every_requirement_has_a_vector_or_a_test_and_none_is_unknown() {
    let Spec { requirements, by_tests } = spec();
    assert!(requirements.len() >= 100, "{} requirements were found", requirements.len());
    let mut cited = BTreeSet::new();
    for case in cases() {
        let musts = list(&case["musts"]);
        assert!(!musts.is_empty(), "{} cites no requirement", case["name"]);
        for must in musts {
            let number: u32 = text(must)[1..].parse().expect("M and a number");
            assert!(requirements.contains_key(&number), "{} cites {must}, which is unknown", case["name"]);
            cited.insert(number);
        }
    }
    for (number, ..) in &by_tests {
        assert!(requirements.contains_key(number), "section 19 names M{number}, which is unknown");
        cited.insert(*number);
    }
    let missing: Vec<_> = requirements.iter().filter(|(number, _)| !cited.contains(number)).collect();
    assert!(missing.is_empty(), "nothing shows these: {missing:#?}");
}

#[test]
fn the_tests_of_section_19_are_there() {
    let workspace = folder().parent().and_then(Path::parent).expect("the workspace").to_path_buf();
    for (number, file, test) in spec().by_tests {
        let source = std::fs::read_to_string(workspace.join(&file))
            .unwrap_or_else(|e| panic!("M{number}: {file}: {e}"));
        assert!(source.contains(&format!("fn {test}(")), "M{number}: {file} has no test {test}");
    }
}

#[test]
fn every_code_that_a_vector_expects_is_in_the_specification() {
    let spec = std::fs::read_to_string(folder().parent().expect("proto").join("SPEC.md")).expect("SPEC.md");
    let codes: BTreeSet<String> = (cases().iter())
        .filter_map(|case| case["expect"].get("reject").map(|code| text(code).to_owned()))
        .filter(|code| !code.starts_with("broken-at-"))
        .collect();
    let unknown: Vec<_> = codes.iter().filter(|code| !spec.contains(&format!("`{code}`"))).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}
