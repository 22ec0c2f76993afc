//! Giving a replica its place at the recovery site, and taking it back.

use super::{Reporter, World};
use crate::actors::entity_actor::{TellError, load_entity};
use crate::domain::catalogue::Code;
use crate::domain::entity::Kind;
use crate::domain::fabric::{Command, Fabric, Tenant};
use crate::domain::failure::{Cause, Failure};
use crate::domain::placement::{Purpose, Sites};
use crate::domain::vm::{Outcome, Side, Vm};

/// Attempts to get addresses that others take at the same time; each that fails has given one to somebody.
const ATTEMPTS: usize = 100;

/// Finds the place of a replica and takes its addresses. A site that nobody described, or a VM, needs none.
pub(super) async fn place(
    vm: &Vm,
    purpose: Purpose<'_>,
    world: &World,
    reporter: &Reporter<Vm>,
) -> Result<Outcome, Failure> {
    let tenant = Tenant { vm: vm.id, test: matches!(purpose, Purpose::Test(_)) };
    for _ in 0..ATTEMPTS {
        let fabrics = fabrics(world)?;
        let Some(sites) = Sites::of(fabrics.iter()) else { return Ok(Outcome::Done) };
        sites.admits(purpose).map_err(|wrong| no_place(vm, "recovery", &wrong))?;
        let Some(placed) = sites.place(vm, purpose) else { return Ok(Outcome::Done) };
        let placement = placed.map_err(|wrong| no_place(vm, "recovery", &wrong.join("; ")))?;
        let addresses = placement.addresses();
        let claim = Command::Claim { tenant, addresses };
        match reporter.tell::<Fabric>(sites.recovery.id.0, claim).await {
            Ok(()) => return Ok(Outcome::Placed { placement }),
            // Somebody else was faster.
            Err(TellError::Rejected(_)) => {}
            Err(error) => return Err(not_now("taking addresses", &error)),
        }
    }
    Err(not_now("taking addresses", &"others took each of them first"))
}

/// Finds the networks of the primary site that a VM comes back into. Nobody holds addresses there.
pub(super) fn place_back(vm: &Vm, world: &World) -> Result<Outcome, Failure> {
    let fabrics = fabrics(world)?;
    let sites = Sites::of(fabrics.iter());
    let Some(placed) = sites.and_then(|sites| sites.place(vm, Purpose::Failback)) else {
        return Ok(Outcome::Done);
    };
    let placement = placed.map_err(|wrong| no_place(vm, "primary", &wrong.join("; ")))?;
    Ok(Outcome::Placed { placement })
}

/// Gives the addresses of a replica, or of the copy of a test, back.
pub(super) async fn leave(
    vm: &Vm,
    test: bool,
    world: &World,
    reporter: &Reporter<Vm>,
) -> Result<(), Failure> {
    let tenant = Tenant { vm: vm.id, test };
    for fabric in fabrics(world)?.iter().filter(|fabric| fabric.side == Side::Recovery) {
        let told = reporter.tell::<Fabric>(fabric.id.0, Command::Release { tenant }).await;
        told.map_err(|error| not_now("giving addresses back", &error))?;
    }
    Ok(())
}

fn fabrics(world: &World) -> Result<Vec<Fabric>, Failure> {
    let streams = world.store.streams().map_err(|error| not_now("reading the sites", &error))?;
    let streams = streams.into_iter().filter(|(stream, _)| stream.kind == Kind::Fabric);
    let load = |(stream, _)| load_entity::<Fabric>(&*world.store, stream).map(|(it, _)| it);
    let fabrics: Result<Vec<_>, _> = streams.map(load).collect();
    fabrics.map_err(|error| not_now("reading the sites", &error))
}

fn no_place(vm: &Vm, site: &str, why: &str) -> Failure {
    Failure::new(Code::PrerequisiteFailed, Cause::Itself, "")
        .with("check", format!("a place at the {site} site ({why})"))
        .with("vm", &vm.name)
}

fn not_now(operation: &str, because: &dyn std::fmt::Display) -> Failure {
    Failure::new(Code::ServiceNotReady, Cause::Itself, because).with("operation", operation)
}
