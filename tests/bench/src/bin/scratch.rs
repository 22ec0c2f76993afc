use lifeboat::ports::event_store::EventStore;
use lifeboat::store::log::Log;
use lifeboat::store::{SledStore, payload};
use std::time::Instant;
fn main() {
    let folder = std::path::PathBuf::from(std::env::args().nth(1).unwrap());
    let t = Instant::now();
    let log = Log::open(&folder).unwrap();
    println!("open {:?}", t.elapsed());
    for _ in 0..2 {
        let t = Instant::now();
        let mut n = 0u64;
        let mut b = 0;
        log.read_all(1, usize::MAX, |r| {
            n += 1;
            b += r.payload.len();
            Ok(())
        })
        .unwrap();
        println!(
            "raw read {n} {b} {:?} {:.0}/s",
            t.elapsed(),
            n as f64 / t.elapsed().as_secs_f64()
        );
    }
    let mut payloads = vec![];
    log.read_all(1, 200000, |r| {
        payloads.push((r.stream, r.payload.to_vec()));
        Ok(())
    })
    .unwrap();
    let t = Instant::now();
    for (stream, p) in &payloads {
        let r = lifeboat::store::record::Record {
            global: 1,
            stream: *stream,
            seq: 1,
            at_ms: 0,
            version: 2,
            payload: p,
            crc: 0,
        };
        std::hint::black_box(payload::decode(&r).unwrap());
    }
    println!("decode {:.0}/s", payloads.len() as f64 / t.elapsed().as_secs_f64());
    drop(log);
    let s = SledStore::open(&folder).unwrap();
    for _ in 0..3 {
        let t = Instant::now();
        let mut n = 0u64;
        s.log()
            .read_all(1, usize::MAX, |r| {
                std::hint::black_box(payload::decode(&r)?);
                n += 1;
                Ok(())
            })
            .unwrap();
        println!("visit: {:.0}/s", n as f64 / t.elapsed().as_secs_f64());
    }
    println!(
        "commit {} entry {}",
        size_of::<lifeboat::domain::entity::Commit>(),
        size_of::<lifeboat::domain::vm::Event>()
    );
    for limit in [64, 256, 1024, 4096, 64, 256] {
        let t = Instant::now();
        let mut next = 1;
        loop {
            let c = s.read_all(next, limit).unwrap();
            let Some(l) = c.last() else { break };
            next = l.global + 1;
        }
        println!("typed {limit}: {:.0}/s", next as f64 / t.elapsed().as_secs_f64());
    }
}
