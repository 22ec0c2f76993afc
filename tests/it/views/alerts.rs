//! Who is told what, and when it is over.

use super::site_of;
use crate::domain::story::{Story, check_failed, complete_failback, link_down, planned};
use lifeboat::views::{AlertState, Alerts};
use std::time::Duration;

/// The keys of what there is to be told; everything is told.
fn tell(alerts: &mut Alerts, story: &Story) -> Vec<(AlertState, String)> {
    let news = alerts.news(&site_of(story).status(story.now));
    for alert in &news {
        alerts.told(alert);
    }
    news.into_iter().map(|alert| (alert.state, alert.key)).collect()
}

#[test]
fn a_cause_is_told_once_when_it_begins_and_once_when_it_has_ended() {
    let mut alerts = Alerts::default();
    let mut story = Story::shipping();
    assert_eq!(tell(&mut alerts, &story), []);
    story.fail(link_down());
    let key = "SR-2101 vm sql-01".to_owned();
    assert_eq!(tell(&mut alerts, &story), [(AlertState::Active, key.clone())]);
    story.wake();
    story.fail(link_down());
    assert_eq!(tell(&mut alerts, &story), [], "another attempt is no other cause");
    story.wake();
    story.succeed();
    assert_eq!(tell(&mut alerts, &story), [(AlertState::Cleared, key)]);
    assert_eq!(tell(&mut alerts, &story), []);
}

#[test]
fn what_could_not_be_told_is_told_later_and_never_if_it_is_over_by_then() {
    let mut alerts = Alerts::default();
    let mut story = Story::shipping();
    story.fail(link_down());
    let look = |alerts: &Alerts, story: &Story| {
        let news = alerts.news(&site_of(story).status(story.now));
        news.iter().map(|alert| alert.state).collect::<Vec<_>>()
    };
    assert_eq!(look(&alerts, &story), [AlertState::Active]);
    assert_eq!(look(&alerts, &story), [AlertState::Active]);
    story.wake();
    story.succeed();
    assert_eq!(look(&alerts, &story), []);
    assert_eq!(tell(&mut alerts, &story), []);
}

#[test]
fn a_cause_whose_words_change_with_time_stays_the_same_alert() {
    let mut alerts = Alerts::default();
    let mut story = Story::protected();
    story.wait(Duration::from_mins(20));
    let begun = tell(&mut alerts, &story);
    assert_eq!(begun, [(AlertState::Active, "SR-2313 vm sql-01".to_owned())]);
    story.wait(Duration::from_mins(1));
    assert_eq!(tell(&mut alerts, &story), [], "it is a minute later");
}

#[test]
fn a_failover_that_failed_is_told_until_another_job_begins() {
    let mut alerts = Alerts::default();
    let mut story = Story::protected();
    story.tell(planned());
    story.fail(check_failed());
    let begun = tell(&mut alerts, &story);
    assert!(matches!(&begun[..], [(AlertState::Active, key)] if key.starts_with("SR-3041 job ")));
    story.tell(crate::domain::story::unplanned(lifeboat::domain::vm::PointChoice::Latest));
    let ended = tell(&mut alerts, &story);
    assert!(matches!(&ended[..], [(AlertState::Cleared, _)]), "{ended:?}");
}

#[test]
fn what_waits_for_somebody_in_the_life_of_a_vm_is_told_until_it_is_done() {
    let mut alerts = Alerts::default();
    let mut story = Story::ready_to_fail_back();
    let key = "SR-3037 vm sql-01".to_owned();
    assert_eq!(tell(&mut alerts, &story), [(AlertState::Active, key.clone())]);
    story.tell(complete_failback());
    assert_eq!(tell(&mut alerts, &story), [(AlertState::Cleared, key)]);

    let mut alerts = Alerts::default();
    let mut story = Story::protected();
    story.tell(planned());
    story.work_off();
    story.wait(Duration::from_hours(23));
    assert_eq!(tell(&mut alerts, &story), [], "a working day");
    story.wait(Duration::from_hours(1));
    let key = "SR-3034 vm sql-01".to_owned();
    assert_eq!(tell(&mut alerts, &story), [(AlertState::Active, key)]);
}
