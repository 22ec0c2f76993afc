//! The list that closes a base: which regions it has and where the log goes on above them.
//!
//! ```text
//! header of a segment (kind 5; sequence = generation, previous = hash of segment `from_seq`, place = `usable_from`)
//! footer   0   8  from_seq
//!          8   4  number of regions R
//!         12   4  0
//!         16 48R  regions, ascending: u64 number, u64 length of the object, 32 bytes hash
//! trailer of a segment
//! ```

use super::base::{Completion, RegionPresent};
use super::builder::{Sealed, seal_footer};
use super::error::VaultError;
use super::keys::KeyId;
use super::segment::{
    Damage, Fields, Header, Kind, MAX_REGIONS, REGION_BYTES, SegmentHash, impossible, same,
};
use super::vault::{Opened, Vault, in_object};
use crate::domain::id::DiskId;
use std::collections::BTreeMap;

const FOOTER_HEAD: usize = 16;
const ROW: usize = 48;

/// A finished base.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Manifest {
    pub(super) epoch: u64,
    pub(super) disk_size: u64,
    pub(super) completion: Completion,
    /// By number. What is not here reads as zeroes.
    pub(super) regions: BTreeMap<u64, RegionPresent>,
    /// What wraps its data key, where that is not to be chosen.
    pub(super) key: Option<KeyId>,
}

impl Manifest {
    pub(super) fn seal(&self, vault: &Vault, disk: DiskId, generation: u64) -> Sealed {
        let header = Header {
            kind: Kind::Manifest,
            vault: vault.id(),
            disk,
            sequence: generation,
            epoch: self.epoch,
            previous: self.completion.from_hash,
            cut_at: self.completion.at,
            disk_size: self.disk_size,
            place: self.completion.usable_from,
            encrypted: false,
        };
        let mut footer = Vec::with_capacity(FOOTER_HEAD + self.regions.len() * ROW);
        footer.extend_from_slice(&self.completion.from_seq.to_le_bytes());
        footer.extend_from_slice(&(self.regions.len() as u32).to_le_bytes());
        footer.extend_from_slice(&[0; 4]);
        for (number, region) in &self.regions {
            footer.extend_from_slice(&number.to_le_bytes());
            footer.extend_from_slice(&region.stored_bytes.to_le_bytes());
            footer.extend_from_slice(&region.hash.0);
        }
        seal_footer(&header, vault.sealing(), footer)
    }

    fn decode(header: &Header, footer: &[u8], at: u64) -> Result<Self, Damage> {
        if header.kind != Kind::Manifest {
            return Err(impossible(10, "kind", header.kind.byte().into()));
        }
        let head = footer.get(..FOOTER_HEAD).unwrap_or(footer);
        let mut fields = Fields::of(head, at, "the head of the footer", FOOTER_HEAD as u64)?;
        let (from_seq, count) = (fields.u64(), u64::from(fields.u32()));
        fields.zero_u32("reserved field")?;
        if header.place < from_seq {
            return Err(impossible(112, "first usable sequence", header.place));
        }
        let most = header.disk_size.div_ceil(REGION_BYTES).min(MAX_REGIONS);
        if most < count {
            return Err(impossible(at + 8, "number of regions", count));
        }
        let rows = &footer[FOOTER_HEAD..];
        same(at + 8, "length of the list", rows.len() as u64, count * ROW as u64)?;
        let mut regions = BTreeMap::new();
        for (nth, row) in rows.chunks_exact(ROW).enumerate() {
            let at = at + (FOOTER_HEAD + nth * ROW) as u64;
            let mut fields = Fields::of(row, at, "a row", ROW as u64)?;
            let (number, stored_bytes) = (fields.u64(), fields.u64());
            let hash = SegmentHash(fields.hash());
            let ascends = regions.last_key_value().is_none_or(|(last, _)| *last < number);
            if !ascends || header.disk_size.div_ceil(REGION_BYTES) <= number {
                return Err(impossible(at, "region number", number));
            }
            regions.insert(number, RegionPresent { hash, stored_bytes });
        }
        let completion = Completion {
            from_seq,
            from_hash: header.previous,
            usable_from: header.place,
            at: header.cut_at,
        };
        let Header { epoch, disk_size, .. } = *header;
        Ok(Self { epoch, disk_size, completion, regions, key: None })
    }
}

impl Vault {
    pub(super) async fn read_manifest(
        &self,
        disk: DiskId,
        generation: u64,
    ) -> Result<Manifest, VaultError> {
        let path = self.manifest_path(disk, generation);
        let Opened { header, footer, trailer, opener, .. } = self.open_object(&path).await?;
        self.checked(&path, &header, disk, generation)?;
        let read = Manifest::decode(&header, &footer, trailer.footer_range().start);
        let read = read.map_err(in_object(&path))?;
        Ok(Manifest { key: opener.key(), ..read })
    }
}
