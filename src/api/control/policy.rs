//! The policy of a cloud, changed.

use super::{Control, Request, is_named};
use crate::api::operation::read_body;
use crate::api::outlook::Outlook;
use crate::api::problem::Problem;
use crate::api::routes::Accepted;
use crate::domain::cloud::{Cloud, Command};
use crate::domain::entity::Entity;
use crate::domain::policy::Policy;
use crate::views::{PolicyView, Site};
use serde::Deserialize;
use std::fmt::Write;

const OPERATION: &str = "policy";

/// A change of a policy: what it does not name stays as it is.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct PolicyChange {
    copy_frequency_seconds: Option<u32>,
    recovery_point_retention_hours: Option<u32>,
    app_consistent_frequency_hours: Option<u32>,
}

impl PolicyChange {
    fn of(&self, policy: PolicyView) -> PolicyView {
        let (copies, kept) = (self.copy_frequency_seconds, self.recovery_point_retention_hours);
        let consistent = self.app_consistent_frequency_hours;
        PolicyView {
            copy_frequency_seconds: copies.unwrap_or(policy.copy_frequency_seconds),
            recovery_point_retention_hours: kept.unwrap_or(policy.recovery_point_retention_hours),
            app_consistent_frequency_hours: consistent
                .unwrap_or(policy.app_consistent_frequency_hours),
        }
    }
}

impl Control {
    /// Changes the policy of a cloud, which is that of its VMs.
    pub(in crate::api) async fn associate_policy(
        &self,
        name: &str,
        body: &[u8],
        request: Request,
    ) -> Result<Accepted, Problem> {
        let _turn = self.commands.lock().await;
        let site = self.parts.live.site().await?;
        let (cloud, policy) = changed(&site, name, body)?;
        let job = self.job_of(cloud.id.0, OPERATION, &request);
        let command = async || Ok(Command::AssociatePolicy { policy });
        let changed = self.change::<Cloud>(cloud.id.0, job, &request, command).await?;
        Ok(changed.accepted(OPERATION, &cloud.name))
    }

    /// What a change of the policy would do. Nothing is changed.
    pub(in crate::api) async fn policy_outlook(
        &self,
        name: &str,
        body: &[u8],
    ) -> Result<Outlook, Problem> {
        let site = self.parts.live.site().await?;
        let (cloud, policy) = changed(&site, name, body)?;
        let decided = cloud.decide(&Command::AssociatePolicy { policy }, self.parts.live.now());
        let changes = !decided?.is_empty();
        let consequence = in_words(&site, cloud, policy);
        Ok(Outlook::of_change(OPERATION, &cloud.name, changes, consequence))
    }
}

/// A cloud, and what its policy would be.
fn changed<'a>(site: &'a Site, name: &str, body: &[u8]) -> Result<(&'a Cloud, Policy), Problem> {
    let cloud = site.clouds.values().find(|cloud| is_named(name, &cloud.name, cloud.id.0));
    let cloud = cloud.ok_or_else(|| Problem::unknown("cloud", name))?;
    let policy = read_body::<PolicyChange>(body)?.of(cloud.policy.into());
    Ok((cloud, policy.into()))
}

fn in_words(site: &Site, cloud: &Cloud, policy: Policy) -> String {
    let named = |id| site.vms.get(id).map(|vm| vm.name.as_str());
    let vms: Vec<_> = cloud.vms.keys().filter_map(named).collect();
    let vms = if vms.is_empty() { "no VM yet".to_owned() } else { vms.join(", ") };
    let (every, kept) = (policy.copy_frequency_s, policy.recovery_point_retention_h);
    let mut text = format!("{vms}: a delta every {every} s, recovery points kept for {kept} h, ");
    let _ = match policy.app_consistent_frequency_h {
        0 => write!(text, "none of them application-consistent"),
        hours => write!(text, "one of them application-consistent every {hours} h"),
    };
    if kept < cloud.policy.recovery_point_retention_h {
        let _ = write!(text, "; points older than that are let go for good");
    }
    text
}
