//! The pace of a host, on virtual time.

use lifeboat::domain::id::VmId;
use lifeboat::domain::time::Timestamp;
use lifeboat::ports::clock::Clock;
use lifeboat::replica::Admission;
use lifeboat::replication::pace::{Lane, Limits, Pace, WorkingHours};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use uuid::Uuid;

const MB: u64 = 1_000_000;

/// A wall clock that follows virtual time.
#[derive(Debug)]
struct Wall {
    began: Instant,
    at: Timestamp,
}

impl Clock for Wall {
    fn now(&self) -> Timestamp {
        self.at.after(self.began.elapsed())
    }
}

fn time(text: &str) -> Timestamp {
    let time = chrono::DateTime::parse_from_rfc3339(text).unwrap();
    Timestamp::from_millis(time.timestamp_millis())
}

/// A pace that begins on a Sunday at noon.
fn pace(limits: Limits) -> Arc<Pace> {
    let clock = Wall { began: Instant::now(), at: time("2026-11-22T12:00:00Z") };
    Pace::new(limits, Arc::new(clock))
}

fn vm(nth: u128) -> VmId {
    VmId(Uuid::from_u128(nth))
}

fn limited(bytes_per_second: u64) -> Limits {
    let limit = Some(bytes_per_second);
    Limits { working: limit, otherwise: limit, ..Limits::default() }
}

async fn send(lane: &Lane, bytes: u64, times: u64) {
    for _ in 0..times {
        drop(lane.admit(bytes).await);
    }
}

/// Sends without end, as a copy does, so many objects at a time.
fn keep_sending(lane: &Lane, uploads: usize) -> Vec<JoinHandle<()>> {
    let sending = |_| {
        let lane = lane.clone();
        tokio::spawn(async move { send(&lane, 10 * MB, 100).await })
    };
    (0..uploads).map(sending).collect()
}

fn seconds_since(start: Instant) -> f64 {
    start.elapsed().as_secs_f64()
}

#[tokio::test(start_paused = true)]
async fn a_host_sends_no_more_than_its_limit() {
    let pace = pace(limited(MB));
    let start = Instant::now();
    let lanes = [1, 2, 3].map(|nth| pace.lane(vm(nth)));
    let [one, two, three] = &lanes;
    tokio::join!(send(one, MB / 2, 20), send(two, 3 * MB, 3), send(three, MB, 1));
    // All 20 MB but the last object, whose time passes after it was let go.
    let seconds = seconds_since(start);
    assert!((17.0..=20.0).contains(&seconds), "{seconds}");
}

#[tokio::test(start_paused = true)]
async fn without_a_limit_nobody_waits() {
    let pace = pace(Limits::default());
    let start = Instant::now();
    send(&pace.lane(vm(1)), 100 * MB, 1000).await;
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_small_delta_does_not_wait_behind_a_neighbours_initial_copy() {
    let pace = pace(limited(MB));
    let copying = keep_sending(&pace.lane(vm(1)), 4);
    tokio::time::sleep(Duration::from_secs(65)).await;
    let start = Instant::now();
    send(&pace.lane(vm(2)), MB / 10, 3).await;
    let seconds = seconds_since(start);
    assert!(seconds < 10.0 + 0.3, "waited {seconds} s for an object of 10 s");
    copying.iter().for_each(JoinHandle::abort);
}

#[tokio::test(start_paused = true)]
async fn a_delta_in_the_middle_of_a_merge_of_its_vm_waits_for_one_object() {
    let pace = pace(Limits { uploads_per_vm: 1, ..limited(MB) });
    let lane = pace.lane(vm(1));
    let merging = keep_sending(&lane.for_merges(), 1);
    tokio::time::sleep(Duration::from_secs(65)).await;
    let start = Instant::now();
    send(&lane, MB / 10, 3).await;
    let seconds = seconds_since(start);
    assert!(seconds < 10.0 + 0.3, "waited {seconds} s for an object of 10 s");
    merging.iter().for_each(JoinHandle::abort);
}

#[tokio::test(start_paused = true)]
async fn what_a_vm_merged_does_not_count_when_its_delta_and_a_neighbours_compete() {
    let pace = pace(limited(MB));
    let (one, two) = (pace.lane(vm(1)), pace.lane(vm(2)));
    send(&two, MB, 1).await;
    send(&one.for_merges(), 10 * MB, 10).await;
    let start = Instant::now();
    let delta = async {
        send(&one, MB, 5).await;
        seconds_since(start)
    };
    let (delta_s, ()) = tokio::join!(delta, send(&two, MB, 100));
    // The merge's last object, and every other one after it.
    assert!(delta_s < 10.0 + 10.0, "waited {delta_s} s for its 5 s");
}

#[tokio::test(start_paused = true)]
async fn merges_of_many_vms_take_no_more_from_a_copy_than_one_vm_does() {
    let pace = pace(limited(MB));
    let merging: Vec<_> =
        (2..12).flat_map(|nth| keep_sending(&pace.lane(vm(nth)).for_merges(), 1)).collect();
    tokio::time::sleep(Duration::from_secs(65)).await;
    let start = Instant::now();
    send(&pace.lane(vm(1)), 10 * MB, 10).await;
    let seconds = seconds_since(start);
    assert!((180.0..=210.0).contains(&seconds), "{seconds} s for the 100 s of a copy");
    merging.iter().for_each(JoinHandle::abort);
}

#[tokio::test(start_paused = true)]
async fn a_vm_that_sent_nothing_for_a_day_has_saved_nothing_up() {
    let pace = pace(limited(MB));
    let (busy, idle) = (pace.lane(vm(1)), pace.lane(vm(2)));
    send(&busy, MB, 86_400).await;
    let start = Instant::now();
    let alternating = async {
        send(&busy, MB, 10).await;
        seconds_since(start)
    };
    let (busy_s, ()) = tokio::join!(alternating, send(&idle, MB, 1000));
    assert!(busy_s < 25.0, "the busy one waited {busy_s} s for its 10 s");
}

#[tokio::test(start_paused = true)]
async fn a_vm_has_so_many_uploads_at_a_time_and_no_more() {
    let pace = pace(Limits { uploads_per_vm: 3, ..Limits::default() });
    let lane = pace.lane(vm(1));
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let uploads: Vec<_> = (0..10)
        .map(|_| {
            let (lane, running, most) = (lane.clone(), Arc::clone(&running), Arc::clone(&most));
            tokio::spawn(async move {
                let upload = lane.admit(MB).await;
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_secs(1)).await;
                running.fetch_sub(1, Ordering::SeqCst);
                drop(upload);
            })
        })
        .collect();
    for upload in uploads {
        upload.await.unwrap();
    }
    assert_eq!(most.load(Ordering::SeqCst), 3);
}

#[tokio::test(start_paused = true)]
async fn whoever_gives_up_waiting_holds_up_nobody() {
    let pace = pace(limited(MB));
    let (one, two) = (pace.lane(vm(1)), pace.lane(vm(2)));
    send(&one, 5 * MB, 1).await;
    let waits = two.clone();
    let given_up = tokio::spawn(async move { send(&waits, MB, 1).await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    given_up.abort();
    let start = Instant::now();
    send(&one, MB, 1).await;
    assert!(seconds_since(start) < 4.1);
}

#[tokio::test(start_paused = true)]
async fn the_limit_follows_the_hours_while_somebody_waits() {
    // From noon on a Sunday at a hundredth; in working hours as fast as it goes.
    let hours =
        WorkingHours { days: [true; 7], from_minute: 12 * 60 + 1, ..WorkingHours::default() };
    let limits = Limits { working: None, otherwise: Some(MB / 100), hours, ..Limits::default() };
    let pace = pace(limits);
    let lane = pace.lane(vm(1));
    let start = Instant::now();
    send(&lane, 10 * MB, 100).await;
    let seconds = seconds_since(start);
    assert!((60.0..=81.0).contains(&seconds), "{seconds}");
}

#[test]
fn working_hours_are_local_and_end_on_the_next_day_where_they_cross_midnight() {
    let office = WorkingHours::default();
    let cases = [
        ("2026-11-23T09:00:00Z", true), // Monday
        ("2026-11-23T08:59:59Z", false),
        ("2026-11-23T17:59:59Z", true),
        ("2026-11-23T18:00:00Z", false),
        ("2026-11-21T12:00:00Z", false), // Saturday
        ("2026-11-22T12:00:00Z", false),
        ("1969-12-31T12:00:00Z", true), // Wednesday
    ];
    for (at, expected) in cases {
        assert_eq!(office.contain(time(at)), expected, "{at}");
    }
    let east = WorkingHours { utc_offset_minutes: 5 * 60 + 30, ..office };
    assert!(east.contain(time("2026-11-23T03:30:00Z")));
    assert!(!east.contain(time("2026-11-23T12:30:00Z")));
    let night = WorkingHours { from_minute: 22 * 60, to_minute: 6 * 60, ..office };
    assert!(night.contain(time("2026-11-28T05:00:00Z")), "Friday's night ends on Saturday");
    assert!(!night.contain(time("2026-11-29T23:00:00Z")));
    assert!(!night.contain(time("2026-11-23T05:00:00Z")), "Sunday's night is off");
    let always = WorkingHours { from_minute: 0, to_minute: 0, days: [true; 7], ..office };
    assert!(always.contain(time("2026-11-22T23:59:59Z")));
}
