//! Making an object: extents in ascending order become frames, frames are sealed, rows tell where they
//! are.
//!
//! Frames are sealed a MiB at a time by the threads of [`super::sealers`]; what they return is taken in
//! order. What is too much for one object goes on in another. Where an object ends depends on the data
//! alone, so that the same content gives the same objects, up to their data keys; and sealing does not
//! wait for an end, since the frames of the next object are handed over while the last ones are sealed.
//!
//! The frames of a base are whole chunks of the disk, with zeroes where nothing was added, so that the
//! threads make the checksums of their blocks along with them.

use super::buffers::Buffer;
use super::fingerprint;
use super::keys::HashKey;
use super::seal::{FrameSealer, ObjectSeal, SealedFrame, Sealing};
use super::sealers::{self, Promise};
use super::segment::{
    Codec, Content, FOOTER_HEAD, FRAME_BYTES, Header, Kind, MAX_PARTS, MAX_ROWS, PART_BYTES,
    PART_ROW, Part, ROW, Row, SegmentHash, TRAILER_BYTES, TRAILER_MAGIC, content, seal_hash,
};
use bytes::Bytes;
use std::collections::VecDeque;
use std::ops::Range;

/// Data that is handed to a thread at a time: 3 ms of its work.
const BATCH_BYTES: u64 = 1024 * 1024;

/// Collects extents in ascending order into frames and rows.
///
/// Writes that touch each other share frames; frames of zeroes become rows without data.
#[derive(Debug)]
pub struct SegmentBuilder {
    header: Header,
    limits: Range<u64>,
    /// Of the object that frames are placed in.
    seal: ObjectSeal,
    /// Those of the objects after it, once frames of theirs were handed over.
    next_seals: VecDeque<ObjectSeal>,
    /// In order. A frame that is not sealed yet has a row without its place and hash.
    rows: Vec<Row>,
    parts: Vec<Part>,
    /// Frames that wait to be sealed together, and the one that is being filled.
    batch: Batch,
    /// The disk offset of the frame that is being filled.
    filling_at: u64,
    /// Frames that are being sealed, and whether an object begins with them.
    batches: VecDeque<(bool, Promise<SealedBatch>)>,
    /// Bytes of data that were handed over of the last object.
    handed_bytes: u64,
    /// Finished frames of the current object, a batch in each.
    frames: Vec<Bytes>,
    /// Bytes of the current object so far, what comes before the frames included.
    object_bytes: u64,
    /// First row of the current object.
    first_row: usize,
    /// Rows up to the last frame that was placed.
    placed_rows: usize,
    /// Part objects that nobody has taken.
    full_parts: VecDeque<(u16, Sealed)>,
    /// End of the last extent.
    end: u64,
    data_bytes: u64,
    /// The checksums of a base's frames that are placed, one record each.
    sums: Vec<u8>,
}

/// Data of frames, back to back.
#[derive(Debug)]
struct Batch {
    data: Buffer,
    frames: Vec<Frame>,
    /// End of the last frame; what follows is being filled.
    frames_end: usize,
}

/// One frame of a batch.
#[derive(Debug)]
struct Frame {
    row: usize,
    /// Disk offset.
    offset: u64,
    length: usize,
}

/// What became of a batch.
#[derive(Debug)]
struct SealedBatch {
    bytes: Bytes,
    /// With their rows.
    frames: Vec<(usize, SealedFrame)>,
    /// The records of their blocks' checksums, where they are wanted.
    sums: Vec<u8>,
}

/// An object, ready to be sent.
#[derive(Debug)]
pub struct Sealed {
    /// Its bytes, in order.
    pub bytes: Vec<Bytes>,
    /// Their number.
    pub length: u64,
    /// The segment's hash, or the hash of a part's rows.
    pub hash: SegmentHash,
    /// What it says, without how it is stored; see [`super::segment::Index::content`].
    pub content: SegmentHash,
}

/// An extent that cannot follow the one before it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExtentError {
    /// It begins before the last one ended.
    #[error("extent at {offset} begins before the one before it ended, at {end}")]
    Disorder {
        /// Where it begins.
        offset: u64,
        /// Where the one before ended.
        end: u64,
    },
    /// It leaves the disk or the region.
    #[error("extent {range:?} is not inside {limits:?}")]
    Outside {
        /// The extent.
        range: Range<u64>,
        /// What it must lie in.
        limits: Range<u64>,
    },
    /// The segment holds [`MAX_ROWS`] rows.
    #[error("segment is full with {MAX_ROWS} rows")]
    Full,
}

impl SegmentBuilder {
    /// An empty segment.
    pub fn new(header: Header, sealing: &Sealing) -> Self {
        let limits = header.limits();
        let seal = sealing.object(&header);
        Self {
            header: Header { encrypted: seal.is_encrypted(), ..header },
            end: limits.start,
            limits,
            rows: Vec::new(),
            parts: Vec::new(),
            batch: Batch::new(),
            filling_at: 0,
            batches: VecDeque::new(),
            handed_bytes: 0,
            frames: Vec::new(),
            object_bytes: seal.head_bytes(),
            first_row: 0,
            placed_rows: 0,
            full_parts: VecDeque::new(),
            data_bytes: 0,
            sums: Vec::new(),
            next_seals: VecDeque::new(),
            seal,
        }
    }

    /// Adds data at `offset` of the disk. May wait for frames that were added before to be sealed.
    ///
    /// # Errors
    /// [`ExtentError`] if it is not after the extent before it or not inside the disk or region.
    pub fn data(&mut self, offset: u64, data: &[u8]) -> Result<(), ExtentError> {
        self.admit(offset, data.len() as u64)?;
        self.go_on_at(offset);
        let (mut offset, mut data) = (offset, data);
        while !data.is_empty() {
            if self.batch.filling().is_empty() {
                self.filling_at = offset;
            }
            let room = (FRAME_BYTES - offset % FRAME_BYTES) as usize;
            let (head, rest) = data.split_at(room.min(data.len()));
            self.batch.data.extend_from_slice(head);
            offset += head.len() as u64;
            data = rest;
            if offset % FRAME_BYTES == 0 {
                self.close_frame();
            }
        }
        Ok(())
    }

    /// Adds a range of zeroes.
    ///
    /// # Errors
    /// As [`SegmentBuilder::data`].
    pub fn zeroes(&mut self, range: Range<u64>) -> Result<(), ExtentError> {
        self.admit(range.start, range.end.saturating_sub(range.start))?;
        self.close_frame();
        self.add_zeroes(range);
        Ok(())
    }

    /// Rows so far.
    pub fn rows(&self) -> usize {
        self.rows.len()
    }

    /// Bytes of data so far, zeroes left out.
    pub fn data_bytes(&self) -> u64 {
        self.data_bytes + self.batch.filling().len() as u64
    }

    /// The next part object that is complete, with the part's number.
    pub fn take_part(&mut self) -> Option<(u16, Sealed)> {
        self.full_parts.pop_front()
    }

    /// Ends the last part object: what remains is the segment's own. Nothing may be added any more.
    pub fn finish(&mut self) {
        self.close_frame();
        while !self.batches.is_empty() {
            self.take_batch();
        }
        if !self.batch.frames.is_empty() {
            let (begins, seal) = self.close_batch();
            self.place_batch(begins, seal());
        }
    }

    /// Closes the segment, with the records of its blocks' checksums if it is of a base.
    pub(super) fn seal_with_sums(mut self) -> (Sealed, Vec<u8>) {
        self.finish();
        let sums = std::mem::take(&mut self.sums);
        (self.seal(), sums)
    }

    /// Closes the segment, whose parts were taken after [`SegmentBuilder::finish`].
    pub fn seal(mut self) -> Sealed {
        self.finish();
        let length = FOOTER_HEAD + self.parts.len() * PART_ROW + self.rows.len() * ROW;
        let mut footer = Vec::with_capacity(length + TRAILER_BYTES as usize);
        footer.extend_from_slice(&(self.parts.len() as u32).to_le_bytes());
        footer.extend_from_slice(&(self.rows.len() as u32).to_le_bytes());
        footer.extend_from_slice(&self.data_bytes.to_le_bytes());
        for part in &self.parts {
            footer.extend_from_slice(&part.length.to_le_bytes());
            footer.extend_from_slice(&part.hash.0);
        }
        self.rows.iter().for_each(|row| row.encode(&mut footer));
        let content = content(&self.header, &self.rows, self.seal.hash_key());
        let frames = (self.frames, self.object_bytes);
        Sealed { content, ..put_together(&self.header, &self.seal, frames, footer) }
    }

    fn admit(&mut self, offset: u64, length: u64) -> Result<(), ExtentError> {
        let end = offset.saturating_add(length);
        if offset < self.limits.start || self.limits.end < end {
            let limits = self.limits.clone();
            return Err(ExtentError::Outside { range: offset..end, limits });
        }
        if offset < self.end {
            return Err(ExtentError::Disorder { offset, end: self.end });
        }
        // Two more rows than frames: one before the first boundary, one that waits to be closed.
        if MAX_ROWS < self.rows.len() + (length / FRAME_BYTES) as usize + 3 {
            return Err(ExtentError::Full);
        }
        self.end = end;
        Ok(())
    }

    /// Closes the frame that is being filled, unless data at `offset` goes on in it.
    fn go_on_at(&mut self, offset: u64) {
        if !self.is_of_base() {
            if self.filling_at + self.batch.filling().len() as u64 != offset {
                self.close_frame();
            }
            return;
        }
        let chunk = offset - offset % FRAME_BYTES;
        if self.batch.filling().is_empty() || self.filling_at != chunk {
            self.close_frame();
            self.filling_at = chunk;
        }
        let length = self.batch.frames_end + (offset - chunk) as usize;
        self.batch.data.resize(length, 0);
    }

    fn is_of_base(&self) -> bool {
        self.header.kind == Kind::Base
    }

    /// The key of the checksums that go with the frames, if any do.
    fn sums_key(&self) -> Option<HashKey> {
        self.is_of_base().then(|| self.seal.hash_key().clone())
    }

    fn close_frame(&mut self) {
        let data = self.batch.filling();
        let length = data.len() as u64;
        if data.is_empty() {
            return;
        }
        if fingerprint::is_zero(data) {
            self.batch.data.truncate(self.batch.frames_end);
            self.add_zeroes(self.filling_at..self.filling_at + length);
            return;
        }
        let content =
            Content::Frame { position: 0, stored: 0, part: 0, hash: [0; 16], codec: Codec::Raw };
        self.batch.close_frame(self.rows.len(), self.filling_at);
        self.rows.push(Row { offset: self.filling_at, length, content });
        self.data_bytes += length;
        if BATCH_BYTES <= self.batch.data.len() as u64 {
            self.hand_over();
        }
    }

    fn hand_over(&mut self) {
        if sealers::in_flight() <= self.batches.len() {
            self.take_batch();
        }
        let (begins, seal) = self.close_batch();
        self.batches.push_back((begins, sealers::hand_over(seal)));
    }

    /// Takes the frames that wait to be sealed together: whether an object begins with them, and what seals
    /// them. One does as soon as the object before it is large enough, so that the last of a segment
    /// is never without frames.
    fn close_batch(&mut self) -> (bool, impl FnOnce() -> SealedBatch + Send + use<>) {
        let batch = self.batch.take_frames();
        let objects = self.parts.len() + self.next_seals.len();
        let begins = PART_BYTES <= self.handed_bytes && (objects as u64) < MAX_PARTS;
        if begins {
            self.next_seals.push_back(self.seal.next(&self.header));
            self.handed_bytes = 0;
        }
        self.handed_bytes += batch.frames_end as u64;
        let seal = self.next_seals.back().unwrap_or(&self.seal);
        let (frames, sums) = (seal.frames.clone(), self.sums_key());
        (begins, move || batch.seal(&frames, sums.as_ref()))
    }

    fn take_batch(&mut self) {
        if let Some((begins, batch)) = self.batches.pop_front() {
            self.place_batch(begins, batch.wait());
        }
    }

    /// Closes the frames that were placed as a part object of their own.
    fn close_part(&mut self) {
        let next = self
            .next_seals
            .pop_front()
            .expect("it was made when its first frames were handed over");
        let number = self.parts.len() as u16 + 1;
        let header = Header { kind: Kind::Part, place: number.into(), ..self.header };
        let mut bytes = vec![Bytes::from(self.seal.head(&header))];
        bytes.append(&mut self.frames);
        let mut rows = Vec::new();
        // Rows whose frames are not placed yet are of later objects.
        for row in &mut self.rows[self.first_row..self.placed_rows] {
            if let Content::Frame { part, .. } = &mut row.content {
                *part = number;
                row.encode(&mut rows);
            }
        }
        let mut hasher = self.seal.hash_key().hasher();
        let hash = SegmentHash(*hasher.update(&rows).finalize().as_bytes());
        self.first_row = self.placed_rows;
        self.seal = next;
        let length = std::mem::replace(&mut self.object_bytes, self.seal.head_bytes());
        self.parts.push(Part { length, hash });
        self.full_parts.push_back((number, Sealed { bytes, length, hash, content: hash }));
    }

    /// Puts sealed frames behind those before them.
    fn place_batch(&mut self, begins: bool, batch: SealedBatch) {
        if begins {
            self.close_part();
        }
        for (row, frame) in batch.frames {
            let SealedFrame { stored, codec, hash } = frame;
            let position = self.object_bytes;
            self.rows[row].content = Content::Frame { position, stored, part: 0, hash, codec };
            self.object_bytes += u64::from(stored);
            self.placed_rows = row + 1;
        }
        self.frames.push(batch.bytes);
        self.sums.extend(batch.sums);
    }

    /// A base needs no rows for zeroes: what it does not name is zero.
    fn add_zeroes(&mut self, range: Range<u64>) {
        if range.is_empty() || self.is_of_base() {
            return;
        }
        let length = range.end - range.start;
        match self.rows.last_mut() {
            Some(last) if last.content == Content::Zeroes && last.range().end == range.start => {
                last.length += length;
            }
            _ => self.rows.push(Row { offset: range.start, length, content: Content::Zeroes }),
        }
    }
}

impl Batch {
    fn new() -> Self {
        Self { data: Buffer::take(), frames: Vec::new(), frames_end: 0 }
    }

    /// The frame that is being filled.
    fn filling(&self) -> &[u8] {
        &self.data[self.frames_end..]
    }

    fn close_frame(&mut self, row: usize, offset: u64) {
        let length = self.filling().len();
        self.frames.push(Frame { row, offset, length });
        self.frames_end = self.data.len();
    }

    /// Takes the closed frames, and leaves the one that is being filled.
    fn take_frames(&mut self) -> Self {
        let mut rest = Self::new();
        rest.data.extend_from_slice(self.filling());
        std::mem::replace(self, rest)
    }

    /// Seals the frames, and makes the checksums of their blocks where there is a key for them.
    fn seal(mut self, sealer: &FrameSealer, sums_key: Option<&HashKey>) -> SealedBatch {
        let (mut bytes, mut sums) = (Buffer::take(), Vec::new());
        let mut rest = &self.data[..];
        let mut frames = Vec::with_capacity(self.frames.len());
        for Frame { row, offset, length } in &self.frames {
            let (data, after) = rest.split_at(*length);
            rest = after;
            let as_it_is = sealer.as_it_is(data);
            frames.push((*row, as_it_is.unwrap_or_else(|| sealer.seal(*offset, data, &mut bytes))));
            sums.extend(sums_key.iter().flat_map(|key| fingerprint::sum_record(key, data)));
        }
        // What is stored as it is stays where it is.
        if bytes.is_empty() {
            self.data.truncate(self.frames_end);
            bytes = self.data;
        }
        SealedBatch { bytes: Bytes::from_owner(bytes), frames, sums }
    }
}

/// An object of a footer alone.
pub(super) fn seal_footer(header: &Header, sealing: &Sealing, footer: Vec<u8>) -> Sealed {
    let seal = sealing.object(header);
    let header = Header { encrypted: seal.is_encrypted(), ..*header };
    put_together(&header, &seal, (Vec::new(), seal.head_bytes()), footer)
}

/// Puts an object together from frames, with the position after the last one, and footer.
fn put_together(
    header: &Header,
    seal: &ObjectSeal,
    (frames, frames_end): (Vec<Bytes>, u64),
    mut footer: Vec<u8>,
) -> Sealed {
    let place = (frames_end, footer.len() as u64);
    let hash = seal_hash(&header.encode(), &footer, place, seal.hash_key());
    footer.extend_from_slice(&place.0.to_le_bytes());
    footer.extend_from_slice(&place.1.to_le_bytes());
    footer.extend_from_slice(&hash.0);
    footer.extend_from_slice(&[0; 8]);
    footer.extend_from_slice(TRAILER_MAGIC);
    let length = frames_end + footer.len() as u64;
    let mut bytes = Vec::with_capacity(frames.len() + 2);
    bytes.push(Bytes::from(seal.head(header)));
    bytes.extend(frames);
    bytes.push(Bytes::from(footer));
    Sealed { bytes, length, hash, content: hash }
}
