//! The vault side: recovery points as immutable objects in object storage.
//!
//! ```text
//! v1/<vault>/vault.json                                       marks the vault; absent = not this storage
//! v1/<vault>/probe-create                                     proved that the storage creates only if absent
//! v1/<vault>/disk/<disk>/log/<seq:020>.seg                    one delta; its create-if-absent PUT is the commit
//! v1/<vault>/disk/<disk>/log/<seq:020>.p<part>.<hash:32>      data of a large delta, sent before the commit
//! v1/<vault>/disk/<disk>/base/<generation:08>/<region:08x>.seg  64 MiB of the disk
//! v1/<vault>/disk/<disk>/base/<generation:08>/<region:08x>.p<part>.<hash:32>  4 MiB of them, sent before
//! v1/<vault>/disk/<disk>/base/<generation:08>/<region:08x>.<hash:32>.sum  checksums of its blocks of 4 KiB
//! v1/<vault>/disk/<disk>/man/<generation:020>.man             closes a base: what is in it, where the log goes on
//! v1/<vault>/disk/<disk>/merged/<from:020>-<to:020>.<end:64>.seg  what several deltas say together
//! v1/<vault>/vm/<vm>/rp/<cycle:020>.json                      a recovery point: one segment of every disk
//! v1/<vault>/vm/<vm>/lease/<id>.<expires:020>.json            what a reader needs, until then
//! ```
//!
//! Nothing but create-if-absent, ranged reads, listing and deletion is asked of the storage, and no
//! object is ever changed. A disk at sequence *n* is its newest usable base with the segments up to
//! *n* on top. Nothing here retries: whoever calls decides when, from [`VaultError`]'s class.

mod admission;
mod audit;
mod base;
mod buffers;
mod builder;
mod collect;
mod delta;
mod discard;
mod error;
pub mod extent_map;
mod fingerprint;
mod image;
mod keys;
mod lease;
mod manifest;
mod marker;
mod merge;
mod overlay;
mod point;
mod presence;
mod seal;
mod sealers;
pub mod segment;
mod stretch;
mod vault;
mod writer;
mod written;

pub use admission::Admission;
pub use audit::{Audit, Depth, PointAudit, VmAudit, vaults_in};
pub use base::{BaseCopy, Completion, RegionPresent, RegionWriter};
pub use builder::{ExtentError, Sealed, SegmentBuilder};
pub use collect::{Collected, Collection, Collector, GRACE};
pub use delta::{Committed, DeltaHeader, DeltaWriter};
pub use error::{OverlayError, VaultError};
pub use fingerprint::{BLOCK_BYTES, Blocks, CHUNK_BYTES, Fingerprint, Verdict};
pub use image::DiskImage;
pub use keys::{HashKey, KeyFile, KeyFileError, KeyId, VaultKeys};
pub use lease::Pins;
pub use marker::Mismatch;
pub use merge::generation_of_copy;
pub use overlay::Overlay;
pub use point::{Consistency, DiskPoint, Names, PointList, RecoveryPointRecord};
pub use seal::{Compression, FrameOpener, Sealing};
pub use vault::{FenceOutcome, Segment, Vault};
