//! Identities. Each kind of thing has an id type of its own, so that none can stand in for another.

use serde::{Deserialize, Serialize};
use std::fmt;
use uuid::Uuid;

macro_rules! id {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// The id that follows from `parent` and the `nth` thing made under it: the same
            /// inputs give the same id, on every machine and in every replay.
            pub fn derived(parent: Uuid, nth: u64) -> Self {
                Self(derive(stringify!($name), parent, &nth.to_le_bytes()))
            }

            /// The id of the thing called `name` under `parent`: a configuration that names its
            /// things finds them again in the log.
            pub fn named(parent: Uuid, name: &str) -> Self {
                Self(derive(concat!(stringify!($name), " by name"), parent, name.as_bytes()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )+};
}

id! {
    /// A virtual machine.
    VmId,
    /// A disk of a virtual machine.
    DiskId,
    /// A hypervisor host.
    HostId,
    /// A cloud: a group of hosts under one replication policy (a protection container).
    CloudId,
    /// A recovery vault.
    VaultId,
    /// A job; it is the correlation id of every commit that the job causes.
    JobId,
    /// A recovery point.
    RecoveryPointId,
    /// A recovery plan.
    PlanId,
    /// A fabric: one of the two sites.
    FabricId,
}

/// Hashes kind, parent and counter or name into a version-8 (custom) UUID.
fn derive(what: &str, parent: Uuid, which: &[u8]) -> Uuid {
    let mut hasher = blake3::Hasher::new_derive_key("lifeboat 2026 derived id");
    hasher.update(what.as_bytes()).update(&[0]).update(parent.as_bytes()).update(which);
    let mut bytes = [0; 16];
    hasher.finalize_xof().fill(&mut bytes);
    uuid::Builder::from_bytes(bytes)
        .with_version(uuid::Version::Custom)
        .with_variant(uuid::Variant::RFC4122)
        .into_uuid()
}
