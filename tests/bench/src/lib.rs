//! What the benchmarks share: rounds that are interleaved, medians, and a line of JSON for each row.

use std::process::{Command, Stdio};

/// Uploads of one VM at a time: the default of `[bandwidth] uploads_per_vm`.
pub const UPLOADS: usize = 4;

/// Prints one row: our figure next to a peer's from the same run. A ratio above 1 says that ours is
/// the larger one.
pub fn row(work: &str, ours: f64, peer: f64, peer_name: &str) {
    let row = serde_json::json!({
        "work": work, "ours": ours, "peer": peer, "peer_name": peer_name, "ratio": ours / peer,
    });
    println!("{row}");
}

/// More than a round writes into the page cache.
const MEMORY_BYTES: usize = 1 << 30;

/// Touches memory and gives it back. A virtual machine that has freed memory may have to get it again from
/// its host, up to 15 µs for each page, which would be on the account of who needs the next fresh page.
pub fn bring_memory() {
    std::hint::black_box(vec![1_u8; MEMORY_BYTES]);
}

/// Measures every contestant once per round, all of them before the next round, so that whatever else
/// the machine does meets them alike. Answers their medians, in their order.
pub fn medians<T>(
    rounds: usize,
    contestants: &mut [T],
    mut measure: impl FnMut(&mut T) -> f64,
) -> Vec<f64> {
    let mut figures = vec![Vec::with_capacity(rounds); contestants.len()];
    for _ in 0..rounds {
        for (figures, contestant) in figures.iter_mut().zip(contestants.iter_mut()) {
            bring_memory();
            figures.push(measure(contestant));
        }
    }
    figures.into_iter().map(median).collect()
}

/// The one in the middle.
pub fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// Whether a program can be started; says so if it cannot.
pub fn is_installed(program: &str) -> bool {
    let mut command = Command::new(program);
    let started = command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if started.is_err() {
        eprintln!("SKIPPED: {program} is not installed");
    }
    started.is_ok()
}

/// Bytes of which about half can be compressed away, another sequence for each `seed`.
pub fn half_compressible(seed: u64, bytes: &mut [u8]) {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    for word in bytes.as_chunks_mut::<16>().0 {
        // xorshift64, by Marsaglia.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word[..8].copy_from_slice(&state.to_le_bytes());
        word[8..].copy_from_slice(&[seed as u8; 8]);
    }
}
