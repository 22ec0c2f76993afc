//! The share of the time in which a VM had the recovery points that it should have.

use super::jobs_of;
use crate::domain::story::{Story, commit, planned};
use lifeboat::domain::time::Timestamp;
use lifeboat::domain::vm::Health;
use lifeboat::views::ComplianceView;
use std::time::Duration;

/// The policy asks for a delta every 5 minutes: up to 10 all is well.
const TARGET: Duration = Duration::from_mins(10);

fn at(story: &Story, now: Timestamp) -> ComplianceView {
    jobs_of(story, 10).compliance(story.vm.id, now).unwrap()
}

#[track_caller]
fn assert_ratio(ratio: Option<f64>, wanted: f64) {
    let ratio = ratio.unwrap();
    assert!((ratio - wanted).abs() < 0.002, "{ratio} instead of {wanted}");
}

#[test]
fn time_counts_from_the_first_point_and_is_lost_from_where_health_warns() {
    let story = Story::in_initial_replication();
    assert_eq!(at(&story, story.now).month_ratio, None, "nothing was promised yet");

    let story = Story::protected();
    let point = story.vm.latest_point().unwrap().at;
    assert_ratio(at(&story, point.after(TARGET)).day_ratio, 1.0);
    assert_eq!(story.vm.health(point.after(TARGET)), Health::Normal);
    assert_eq!(story.vm.health(point.after(TARGET + Duration::from_secs(1))), Health::Warning);
    // Half of the time since then.
    assert_ratio(at(&story, point.after(TARGET * 2)).day_ratio, 0.5);
}

#[test]
fn an_outage_weighs_less_the_longer_the_time_that_is_looked_back_on() {
    let mut story = Story::protected();
    let hours = Duration::from_hours;
    let deltas = |story: &mut Story, until: Timestamp| {
        while story.now < until {
            story.wake();
            story.work_off();
        }
    };
    let begun = story.now;
    deltas(&mut story, begun.after(hours(30)));
    // Twelve hours without a delta.
    story.wait(hours(12));
    let (_, late) = story.alarm().unwrap();
    story.tell(late);
    story.work_off();
    let over = story.now;
    let ratios = at(&story, over);
    assert_ratio(ratios.day_ratio, 1.0 - (12.0 - 10.0 / 60.0) / 24.0);
    assert_ratio(ratios.week_ratio, 1.0 - (12.0 - 10.0 / 60.0) / 42.0);
    assert_eq!(ratios.week_ratio, ratios.month_ratio, "it was not measured for longer");
    deltas(&mut story, over.after(hours(25)));
    assert_ratio(at(&story, story.now).day_ratio, 1.0);
}

#[test]
fn at_the_recovery_site_nothing_is_measured() {
    let mut story = Story::protected();
    story.tell(planned());
    story.work_off();
    story.tell(commit());
    story.work_off();
    let then = at(&story, story.now);
    let later = at(&story, story.now.after(Duration::from_hours(20)));
    assert_eq!(then.week_ratio, later.week_ratio);
    assert_eq!(at(&story, story.now.after(Duration::from_hours(25))).day_ratio, None);
}
