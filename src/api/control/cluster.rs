//! Clusters: a VM moves to another member.

use super::{Control, Request, is_named, vm_named};
use crate::api::operation::read_body;
use crate::api::outlook::{Outlook, host_answers};
use crate::api::problem::Problem;
use crate::api::routes::Accepted;
use crate::domain::entity::Rejection;
use crate::domain::host::Host;
use crate::domain::vm::{Command, Vm};
use crate::views::Site;
use serde::Deserialize;

const OPERATION: &str = "move";

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct MoveBody {
    to: String,
}

impl Control {
    /// Moves a VM to another member of its host's cluster.
    pub(in crate::api) async fn move_vm(
        &self,
        name: &str,
        body: &[u8],
        request: Request,
    ) -> Result<Accepted, Problem> {
        let _turn = self.commands.lock().await;
        let site = self.parts.live.site().await?;
        let (vm, target) = to_move(&site, name, body)?;
        let (id, host) = (vm.id, target.id);
        let job = self.job_of(id.0, OPERATION, &request);
        let command = async || {
            if vm.host != host {
                movable(vm, site.hosts.get(&vm.host), target)?;
                let moved = self.parts.outside.move_vm(id, host).await;
                moved.map_err(|failure| Problem::new(&failure))?;
            }
            Ok(Command::ReportMoved { host })
        };
        let changed = self.change::<Vm>(id.0, job, &request, command).await?;
        Ok(changed.accepted(OPERATION, &vm.name))
    }

    /// What moving a VM would do. Nothing is changed.
    pub(in crate::api) async fn move_outlook(
        &self,
        name: &str,
        body: &[u8],
    ) -> Result<Outlook, Problem> {
        let site = self.parts.live.site().await?;
        let (vm, to) = to_move(&site, name, body)?;
        let (name, host) = (&vm.name, &to.name);
        if vm.host == to.id {
            let consequence = format!("{name} is at {host}.");
            return Ok(Outlook::of_change(OPERATION, name, false, consequence));
        }
        let consequence = format!(
            "{name} goes on at {host} and stays protected. Whoever uses its disks loses them for a moment."
        );
        let outlook = Outlook::of_change(OPERATION, name, true, consequence);
        Ok(match movable(vm, site.hosts.get(&vm.host), to) {
            Ok(()) => outlook.with(host_answers(to)),
            Err(problem) => outlook.refused(problem),
        })
    }
}

/// The VM that is to be moved, and the host that it is to be moved to.
fn to_move<'a>(site: &'a Site, name: &str, body: &[u8]) -> Result<(&'a Vm, &'a Host), Problem> {
    let MoveBody { to } = read_body(body)?;
    let vm = vm_named(site, name)?;
    let host = site.hosts.values().find(|host| is_named(&to, &host.name, host.id.0));
    Ok((vm, host.ok_or_else(|| Problem::unknown("host", &to))?))
}

fn movable(vm: &Vm, from: Option<&Host>, to: &Host) -> Result<(), Problem> {
    let refused = |because: String| Err(Rejection::Refused { because }.into());
    if !from.is_some_and(|from| from.shares_cluster_with(to)) {
        return refused(format!("{} is in no cluster with {}", to.name, vm.name));
    }
    if !vm.may_run_at_primary() {
        return refused(format!(
            "{} does not run at the primary site: it is {}",
            vm.name, vm.phase
        ));
    }
    Ok(())
}
