//! Recorded incidents: what was, why, what changed, and that this build decides the same.

use super::{INCIDENTS, fixture, lifeboat, log, text};
use lifeboat::replay::verify;
use std::fmt::Write;
use std::fs;

/// What is asked about each incident; `LOG` stands for its log, `CLOSER` and `FASTER` for files beside it.
const QUESTIONS: [(&str, &[&str]); 4] = [
    (
        "host_killed_in_failover",
        &[
            "at --log LOG --time 2026-01-05T08:07:30Z",
            "at --log LOG",
            "why --log LOG --vm sql --state critical",
            "diff --log LOG 2026-01-05T08:06:00Z 2026-01-05T08:08:30Z",
            "verify --log LOG",
        ],
    ),
    (
        "link_flaps",
        &[
            "at --log LOG --seq 60",
            "why --log LOG --vm web --state critical",
            "why --log LOG --vm web --state critical --until 2026-01-05T08:06:00Z",
            "diff --log LOG 60 70",
            "run --log LOG --from 2026-01-05T08:05:30Z --to 2026-01-05T08:06:20Z",
            "verify --log LOG",
        ],
    ),
    (
        "resync_storm",
        &[
            "at --log LOG --time 2026-01-05T08:08:02Z",
            "why --log LOG --vm web-2 --state critical",
            "verify --log LOG",
        ],
    ),
    (
        "vault_full",
        &[
            "at --log LOG --time 2026-01-05T08:10:00Z",
            "why --log LOG --vm db --state critical",
            "why --log LOG --vm db",
            "diff --log LOG 2026-01-05T08:05:50Z 2026-01-05T08:10:00Z",
            "what-if --log LOG --retry CLOSER",
            "what-if --log LOG --policy FASTER",
            "verify --log LOG",
        ],
    ),
];

/// With `LIFEBOAT_FREEZE=1` the answers are written down instead: look at what changed before it is kept.
#[test]
fn the_answers_about_recorded_incidents_stay_what_they_are() {
    for (incident, questions) in QUESTIONS {
        let log = fixture(incident, "jsonl");
        let answers = fixture(incident, "txt");
        let mut session = String::new();
        for question in questions {
            let words = question
                .replace("LOG", log.to_str().unwrap())
                .replace("CLOSER", fixture("closer-retries", "toml").to_str().unwrap())
                .replace("FASTER", fixture("faster-policy", "toml").to_str().unwrap());
            let mut arguments = vec!["replay"];
            arguments.extend(words.split(' '));
            let output = lifeboat(&arguments);
            assert!(output.status.success(), "{question}: {}", text(&output.stderr));
            writeln!(session, "$ lifeboat replay {question}\n{}", text(&output.stdout)).unwrap();
        }
        if std::env::var_os("LIFEBOAT_FREEZE").is_some() {
            fs::write(&answers, &session).unwrap();
        }
        let kept = fs::read_to_string(&answers).unwrap();
        for (kept, now) in kept.lines().zip(session.lines()) {
            assert_eq!(now, kept, "{incident}");
        }
        assert_eq!(session, kept, "{incident}");
    }
}

#[test]
fn this_build_decides_every_recorded_incident_as_it_was_recorded() {
    for incident in INCIDENTS {
        let result = verify(&mut log(incident), vec![]).unwrap();
        assert!(result.is_sound(), "{incident}: {:#?}", result.first);
        assert_eq!(result.decided, result.commits);
        assert!(50 < result.commits);
    }
}
