//! Making an object: extents in ascending order become frames, frames are sealed, rows tell where they
//! are.
//!
//! Frames are sealed a MiB at a time by the threads of [`super::sealers`]; what they return is taken in
//! order. Where an object ends depends on the data alone, so that the same content gives the same
//! objects, up to their data keys.

use super::seal::{ObjectSeal, SealedFrame, Sealing};
use super::sealers::{self, Promise};
use super::segment::{
    Codec, Content, FOOTER_HEAD, FRAME_BYTES, Header, Kind, MAX_ROWS, PART_ROW, Part, ROW, Row,
    SegmentHash, TRAILER_BYTES, TRAILER_MAGIC, content, seal_hash,
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
    seal: ObjectSeal,
    /// In order. A frame that is not sealed yet has a row without its place and hash.
    rows: Vec<Row>,
    parts: Vec<Part>,
    /// The frame being filled and its disk offset.
    filling: Vec<u8>,
    filling_at: u64,
    /// Frames that wait to be sealed together.
    batch: Batch,
    batch_bytes: u64,
    /// Frames that are being sealed.
    batches: VecDeque<Promise<SealedBatch>>,
    /// Finished frames of the current object.
    frames: Vec<Bytes>,
    /// Bytes of the current object so far, what comes before the frames included.
    object_bytes: u64,
    /// Bytes of data in the current object.
    pending_bytes: u64,
    /// First row of the current object.
    first_row: usize,
    /// End of the last extent.
    end: u64,
    data_bytes: u64,
}

/// Frames with their rows and disk offsets.
type Batch = Vec<(usize, u64, Vec<u8>)>;

/// What became of them.
type SealedBatch = Vec<(usize, SealedFrame)>;

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
            filling: Vec::new(),
            filling_at: 0,
            batch: Vec::new(),
            batch_bytes: 0,
            batches: VecDeque::new(),
            frames: Vec::new(),
            object_bytes: seal.head_bytes(),
            pending_bytes: 0,
            first_row: 0,
            data_bytes: 0,
            seal,
        }
    }

    /// Adds data at `offset` of the disk. May wait for frames that were added before to be sealed.
    ///
    /// # Errors
    /// [`ExtentError`] if it is not after the extent before it or not inside the disk or region.
    pub fn data(&mut self, offset: u64, data: &[u8]) -> Result<(), ExtentError> {
        self.admit(offset, data.len() as u64)?;
        if self.filling_at + self.filling.len() as u64 != offset {
            self.close_frame();
        }
        let (mut offset, mut data) = (offset, data);
        while !data.is_empty() {
            if self.filling.is_empty() {
                self.filling_at = offset;
                self.filling.reserve_exact(FRAME_BYTES as usize);
            }
            let room = (FRAME_BYTES - offset % FRAME_BYTES) as usize;
            let (head, rest) = data.split_at(room.min(data.len()));
            self.filling.extend_from_slice(head);
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

    /// Bytes of data in the frames of the current object.
    pub fn pending_bytes(&self) -> u64 {
        self.pending_bytes
    }

    /// Rows so far.
    pub fn rows(&self) -> usize {
        self.rows.len()
    }

    /// Bytes of data so far, zeroes left out.
    pub fn data_bytes(&self) -> u64 {
        self.data_bytes + self.filling.len() as u64
    }

    /// Closes the frames that wait as a part object of their own and frees them, with the part's
    /// number; `None` if none waits or if there can be no more parts.
    pub fn take_part(&mut self) -> Option<(u16, Sealed)> {
        self.seal_frames();
        let number =
            u16::try_from(self.parts.len() + 1).ok().filter(|_| !self.frames.is_empty())?;
        let header = Header { kind: Kind::Part, place: number.into(), ..self.header };
        let mut bytes = vec![Bytes::from(self.seal.head(&header))];
        bytes.append(&mut self.frames);
        let mut rows = Vec::new();
        for row in &mut self.rows[self.first_row..] {
            if let Content::Frame { part, .. } = &mut row.content {
                *part = number;
                row.encode(&mut rows);
            }
        }
        let mut hasher = self.seal.hash_key().hasher();
        let hash = SegmentHash(*hasher.update(&rows).finalize().as_bytes());
        self.first_row = self.rows.len();
        self.seal = self.seal.next(&self.header);
        let length = std::mem::replace(&mut self.object_bytes, self.seal.head_bytes());
        self.pending_bytes = 0;
        self.parts.push(Part { length, hash });
        Some((number, Sealed { bytes, length, hash, content: hash }))
    }

    /// Closes the segment.
    pub fn seal(mut self) -> Sealed {
        self.close_frame();
        self.seal_frames();
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

    fn close_frame(&mut self) {
        if self.filling.is_empty() {
            return;
        }
        let data = std::mem::take(&mut self.filling);
        let length = data.len() as u64;
        if data.iter().all(|byte| *byte == 0) {
            self.add_zeroes(self.filling_at..self.filling_at + length);
            return;
        }
        let content =
            Content::Frame { position: 0, stored: 0, part: 0, hash: [0; 16], codec: Codec::Raw };
        self.batch.push((self.rows.len(), self.filling_at, data));
        self.rows.push(Row { offset: self.filling_at, length, content });
        self.batch_bytes += length;
        self.pending_bytes += length;
        self.data_bytes += length;
        if BATCH_BYTES <= self.batch_bytes {
            self.hand_over();
        }
    }

    fn hand_over(&mut self) {
        if sealers::in_flight() <= self.batches.len() {
            self.take_batch();
        }
        self.batch_bytes = 0;
        let (batch, frames) = (std::mem::take(&mut self.batch), self.seal.frames.clone());
        self.batches.push_back(sealers::hand_over(move || {
            let seal = |(row, offset, data)| (row, frames.seal(offset, data));
            batch.into_iter().map(seal).collect()
        }));
    }

    fn take_batch(&mut self) {
        if let Some(batch) = self.batches.pop_front() {
            batch.wait().into_iter().for_each(|(row, frame)| self.place(row, frame));
        }
    }

    /// Seals what waits, and waits for what is being sealed.
    fn seal_frames(&mut self) {
        while !self.batches.is_empty() {
            self.take_batch();
        }
        self.batch_bytes = 0;
        for (row, offset, data) in std::mem::take(&mut self.batch) {
            let frame = self.seal.frames.seal(offset, data);
            self.place(row, frame);
        }
    }

    /// Puts a sealed frame behind the one before it.
    fn place(&mut self, row: usize, frame: SealedFrame) {
        let SealedFrame { stored: bytes, codec, hash } = frame;
        let (position, stored) = (self.object_bytes, bytes.len() as u32);
        self.rows[row].content = Content::Frame { position, stored, part: 0, hash, codec };
        self.object_bytes += u64::from(stored);
        self.frames.push(bytes);
    }

    /// A base needs no rows for zeroes: what it does not name is zero.
    fn add_zeroes(&mut self, range: Range<u64>) {
        if range.is_empty() || self.header.kind == Kind::Base {
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
