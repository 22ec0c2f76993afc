//! The control API: how programs, and the command line, operate a running service.
//!
//! ```text
//!  GET  /lifeboat/v1/status  vms  vms/{vm}  vms/{vm}/recovery-points  jobs  jobs/{id}
//!                    hosts  clouds  vaults  policy  events?after=N  plans  plans/{plan}
//!                    vms/{vm}/checks  fabrics  network-mappings
//!  POST /lifeboat/v1/vms/{vm}/{operation}   jobs/{id}/{cancel|resume|restart}   clouds/{cloud}/policy   ?dry_run=true
//!       plans/{plan}/{run|continue|retry|cancel|check}
//!       vms/{vm}/move  vaults/{vault}/registration-key  hosts/{host}/register  provider/register
//!  PUT, DELETE /lifeboat/v1/plans/{plan}  network-mappings/{network}
//! ```
//!
//! Every request carries the token of the service. Reads are views of the live states and of the log. A
//! command is decided by the entity that it is for, never here; it carries a `Lifeboat-Request-Id`, from
//! which the id of its job is derived, so that the log itself knows whether it was asked for before, also
//! after a restart. Errors are entries of the catalogue, as `application/problem+json`.

mod control;
mod draft;
mod failback;
mod history;
mod job;
mod live;
mod operation;
mod outlook;
mod problem;
mod routes;
mod run;
mod target;
mod token;

pub use control::{Control, ControlParts, Outside, PlanAccepted, PlanDetails, RegistrationKeyView};
pub use draft::{ActionDraft, GroupDraft, PlanDraft};
pub use history::{History, follow};
pub use live::Live;
pub use operation::{Operation, operation, point_choice};
pub use outlook::{Check, Outlook, PlanOutlook, VmOutlook};
pub use problem::{Details, Problem};
pub use routes::{ACTOR_HEADER, Accepted, EventsView, PREFIX, REQUEST_ID_HEADER, configure};
pub use token::Token;
