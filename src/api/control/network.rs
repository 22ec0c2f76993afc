//! Networks: looked at, and mapped.

use super::{Control, Request, vm_named};
use crate::api::operation::read_body;
use crate::api::outlook::{Outlook, prerequisites_of};
use crate::api::problem::Problem;
use crate::api::routes::Accepted;
use crate::domain::entity::Entity;
use crate::domain::fabric::{Command, Fabric};
use crate::views::{FabricView, MappingView, PrerequisiteView, Site};
use serde::Deserialize;

const OPERATION: &str = "network-mapping";

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct MappingBody {
    to: String,
}

impl Control {
    /// Every check of a VM's prerequisites.
    pub(in crate::api) async fn checks(
        &self,
        name: &str,
    ) -> Result<Vec<PrerequisiteView>, Problem> {
        let site = self.parts.live.site().await?;
        Ok(prerequisites_of(vm_named(&site, name)?, &site, &*self.parts.outside))
    }

    /// The two sites.
    pub(in crate::api) async fn fabrics(&self) -> Result<Vec<FabricView>, Problem> {
        Ok(self.parts.live.site().await?.fabrics())
    }

    /// How the VM networks are mapped.
    pub(in crate::api) async fn mappings(&self) -> Result<Vec<MappingView>, Problem> {
        Ok(self.parts.live.site().await?.mappings())
    }

    /// Maps a VM network; without a body, to none.
    pub(in crate::api) async fn map(
        &self,
        network: &str,
        body: Option<&[u8]>,
        request: Request,
    ) -> Result<Accepted, Problem> {
        let _turn = self.commands.lock().await;
        let site = self.parts.live.site().await?;
        let (fabric, command) = mapping(&site, network, body)?;
        let job = self.job_of(fabric.id.0, &format!("{OPERATION} {network}"), &request);
        let command = async || Ok(command);
        let changed = self.change::<Fabric>(fabric.id.0, job, &request, command).await?;
        Ok(changed.accepted(OPERATION, network))
    }

    /// What mapping a VM network would do. Nothing is changed.
    pub(in crate::api) async fn mapping_outlook(
        &self,
        network: &str,
        body: Option<&[u8]>,
    ) -> Result<Outlook, Problem> {
        let site = self.parts.live.site().await?;
        let (fabric, command) = mapping(&site, network, body)?;
        let changes = !fabric.decide(&command, self.parts.live.now())?.is_empty();
        let views = site.mappings();
        let vms = views.iter().find(|view| view.network == network).map(|view| view.vms.join(", "));
        let vms = vms.filter(|vms| !vms.is_empty()).unwrap_or_else(|| "no VM yet".to_owned());
        let consequence = match &command {
            Command::MapNetwork { to, .. } => {
                format!("from the next failover on, replicas go into {to}: {vms}")
            }
            _ => format!("from the next failover on, replicas start without this network: {vms}"),
        };
        Ok(Outlook::of_change(OPERATION, network, changes, consequence))
    }
}

/// The primary site, and what it is to be told to have a VM network mapped.
fn mapping<'a>(
    site: &'a Site,
    network: &str,
    body: Option<&[u8]>,
) -> Result<(&'a Fabric, Command), Problem> {
    let none =
        || Problem::unknown("described recovery site in the configuration, so no network", network);
    let sites = site.sites().ok_or_else(none)?;
    let known = sites.primary.network(network).is_some();
    let network = network.to_owned();
    let command = match body {
        Some(body) => {
            let MappingBody { to } = read_body(body)?;
            if !known {
                return Err(Problem::unknown("network of the primary site", &network));
            }
            if sites.recovery.network(&to).is_none() {
                return Err(Problem::unknown("network of the recovery site", &to));
            }
            Command::MapNetwork { network, to }
        }
        // A network that is gone may have left its mapping.
        None if !known && !sites.primary.mapping.contains_key(&network) => {
            return Err(Problem::unknown("network of the primary site", &network));
        }
        None => Command::UnmapNetwork { network },
    };
    Ok((sites.primary, command))
}
