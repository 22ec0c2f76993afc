//! Another policy or another schedule: how far the model can be trusted, and what is asked of it.

use super::{INCIDENTS, fixture, lifeboat, log, text};
use lifeboat::replay::{Asked, what_if};
use std::fs;

/// The model under what was in force comes to what was recorded, with every attempt.
#[test]
fn the_model_comes_to_what_was_recorded_of_every_incident() {
    for incident in INCIDENTS {
        let (compared, _) = what_if(&mut log(incident), Asked::default(), None).unwrap();
        assert!(!compared.is_empty(), "{incident}");
        for it in compared {
            let (recorded, modelled) = (&it.recorded, &it.modelled);
            assert!(it.fits, "{incident}, {}: {recorded:?} and {modelled:?}", it.vm);
            assert_eq!(recorded.failed_attempts, modelled.failed_attempts, "{incident}, {}", it.vm);
            assert_eq!(recorded.retry_minutes, modelled.retry_minutes, "{incident}, {}", it.vm);
            assert!(recorded.deltas.abs_diff(modelled.deltas) <= 1, "{incident}, {}", it.vm);
            // Nothing else was asked about.
            assert_eq!(it.what_if, *modelled, "{incident}, {}", it.vm);
        }
    }
}

fn ask(policy: &str) -> (bool, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("faster.toml");
    fs::write(&file, policy).unwrap();
    let log = fixture("link_flaps", "jsonl");
    let (log, file) = (log.to_str().unwrap(), file.to_str().unwrap());
    let output = lifeboat(&["replay", "what-if", "--log", log, "--policy", file]);
    (output.status.success(), text(&output.stdout) + &text(&output.stderr))
}

#[test]
fn a_policy_is_given_as_for_a_simulation_or_by_the_names_of_the_interface() {
    let (done, as_for_simulation) = ask("copy_frequency = \"5m\"\n");
    assert!(done, "{as_for_simulation}");
    let (done, by_interface) = ask("copy_frequency_seconds = 300\n");
    assert!(done, "{by_interface}");
    assert_eq!(as_for_simulation, by_interface);
    assert!(as_for_simulation.contains("the model fits what was recorded of web"));
    assert!(as_for_simulation.contains("late: for how long"), "{as_for_simulation}");
    for (policy, wrong) in [
        ("copy_frequency = \"5m\"\ncopy_frequency_seconds = 300\n", "are the same: give one"),
        ("copy_frequency = \"1500ms\"\n", "is not a whole number of times 1s"),
        ("", "names no policy"),
        ("copy_frequence = \"5m\"\n", "unknown field"),
        ("copy_frequency = \"0s\"\n", "must be from 1 to 900"),
    ] {
        let (done, said) = ask(policy);
        assert!(!done && said.contains(wrong), "{policy}: {said}");
    }
}
