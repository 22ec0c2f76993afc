//! The actors: the only place that performs effects.
//!
//! ```text
//!            Tell(command)                         append            +-------------+
//!  Site ----------------------> EntityActor<E> ------------------->  | event store |
//!                                |  ^   |  ^   <-- durable commit --- +-------------+
//!               effects newly    |  |   |  | Wake
//!               called for       v  |   v  |
//!                             World     Supervisor (timers, early retries, restarts)
//! ```
//!
//! An [`EntityActor`] hosts one entity of any type: it loads snapshot and events, and for each command
//! decides, appends, applies, publishes, and brings the running work in line with what `pending` asks
//! for. Work starts only after the append of the commit that calls for it is durable, and is derived
//! again from state alone after a restart. The [`Supervisor`] owns the one timer, sends work to be
//! tried again the moment its cause has ended, and builds an actor that died anew from the log.

mod entity_actor;
mod hosted;
mod retries;
mod site;
mod supervisor;
mod timers;
mod woken;

pub use entity_actor::{EntityActor, IDLE_PAUSE, Origin, Tell, TellError, Told, load_entity};
pub use hosted::{Alarm, Hosted, Outlet, Reporter, World};
pub use retries::RetrySupervision;
pub use site::Site;
pub use supervisor::Supervisor;
pub use timers::{TimerId, Timers, Wake};
