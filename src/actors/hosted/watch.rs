//! Watching something from outside, for as long as that is called for.

use super::{Hosted, Reporter};
use crate::domain::failure::Failure;
use std::future::Future;
use std::ops::RangeInclusive;
use std::time::Duration;

/// The longest pause between two looks at a vault: one that answers now and then, or one that somebody waits for.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(32);

/// Probes again and again and reports each answer; ends only by being stopped. Waits for the shorter of the two
/// pauses in between; where the answers change, longer and longer, up to the other one: each change is an event,
/// and has everything tried at once that waits for it.
pub(super) async fn watch<E: Hosted, P: Future<Output = Result<(), Failure>>>(
    reporter: &Reporter<E>,
    pauses: RangeInclusive<Duration>,
    probe: impl Fn() -> P,
    report: impl Fn(Result<(), Failure>) -> E::Command,
) -> E::Command {
    let (shortest, longest) = pauses.into_inner();
    let (mut pause, mut answered) = (shortest, None);
    loop {
        let probed = probe().await;
        let answers = probed.is_ok();
        reporter.report(report(probed));
        let changed = answered.is_some_and(|before| before != answers);
        pause = if changed { pause * 2 } else { pause / 2 };
        pause = pause.min(longest).max(shortest);
        answered = Some(answers);
        actix::clock::sleep(pause).await;
    }
}
