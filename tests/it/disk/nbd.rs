//! The NBD server against its own client, and against clients that talk nonsense.

use super::{Machine, Served, choices, content};
use lifeboat::disk::files::{MemoryFiles, RealFiles};
use lifeboat::disk::hrl::{HeaderTrust, LogReader};
use lifeboat::disk::nbd::protocol::{
    FLAG_FIXED_NEWSTYLE, FLAG_NO_ZEROES, OPTION_MAGIC, Request, SIMPLE_REPLY_MAGIC, command, flag,
    option,
};
use lifeboat::disk::nbd::{Client, ClientError, Endpoint, Server};
use lifeboat::disk::raw::RawDisk;
use lifeboat::ports::block::{BlockDevice, Write as DiskWrite};
use lifeboat::ports::files::Open;
use proptest::prelude::*;
use std::io::{self, ErrorKind, Read, Write};
use std::ops::Range;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

const SIZE: u64 = 8 << 20;

fn errno(outcome: Result<(), ClientError>) -> u32 {
    match outcome {
        Err(ClientError::Answered { errno, .. }) => errno,
        other => panic!("{other:?}"),
    }
}

/// The socket of a server, without a client.
fn connect(endpoint: &Endpoint) -> UnixStream {
    let Endpoint::Unix(path) = endpoint else { panic!("a Unix socket") };
    let stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

/// A connection past its handshake, by hand.
pub(super) fn transmission(endpoint: &Endpoint) -> UnixStream {
    let mut stream = connect(endpoint);
    let flags = u32::from(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES);
    stream.write_all(&flags.to_be_bytes()).unwrap();
    stream.write_all(&option_bytes(option::EXPORT_NAME, b"disk")).unwrap();
    stream.read_exact(&mut [0; 18 + 10]).unwrap();
    stream
}

fn option_bytes(option: u32, data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u32).to_be_bytes();
    [&OPTION_MAGIC.to_be_bytes()[..], &option.to_be_bytes(), &length, data].concat()
}

/// The error of a simple reply.
fn simple_reply(stream: &mut UnixStream) -> u32 {
    let mut reply = [0; 16];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(reply[..4], SIMPLE_REPLY_MAGIC.to_be_bytes());
    u32::from_be_bytes([reply[4], reply[5], reply[6], reply[7]])
}

fn request(command: u16, cookie: u64, offset: u64, length: usize) -> Vec<u8> {
    Request { flags: 0, command, cookie, offset, length: length as u32 }.encode().to_vec()
}

fn write_request(cookie: u64, offset: u64, data: &[u8]) -> Vec<u8> {
    [&request(command::WRITE, cookie, offset, data.len())[..], data].concat()
}

/// Which request a simple reply without an error is of.
fn reply_cookie(stream: &mut UnixStream) -> u64 {
    let mut reply = [0; 16];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(reply[..8], [&SIMPLE_REPLY_MAGIC.to_be_bytes()[..], &[0; 4]].concat());
    u64::from_be_bytes(reply[8..].try_into().unwrap())
}

#[test]
fn what_is_written_is_read_and_what_is_zeroed_is_a_hole() {
    let served = Served::raw(SIZE);
    let mut client = served.client();
    assert_eq!((client.size_bytes(), client.read_only()), (SIZE, false));
    let data: Vec<u8> = (0..3 << 20).map(|nth: u32| (nth % 251) as u8).collect();
    client.write_at(&data, 4096, true).unwrap();
    client.write_at(&[9; 7], 4099, false).unwrap();
    client.zero(1 << 20..(1 << 20) + 8192, true).unwrap();
    client.zero(5000..6000, false).unwrap();
    client.trim(2 << 20..3 << 20).unwrap();
    client.flush().unwrap();
    let mut expected = vec![0; SIZE as usize];
    expected[4096..][..data.len()].copy_from_slice(&data);
    expected[4099..4106].fill(9);
    for zeroed in [1 << 20..(1 << 20) + 8192, 5000..6000, 2 << 20..3 << 20] {
        expected[zeroed].fill(0);
    }
    let mut read = vec![1; SIZE as usize];
    served.client().read_at(&mut read, 0).unwrap();
    assert!(read == expected);
    let extents = client.block_status(0..SIZE).unwrap();
    assert_eq!(extents[0].range, 0..4096);
    assert!(extents[0].hole && extents[0].zero && !extents[1].hole);
    assert!(extents.iter().any(|extent| extent.hole && extent.range.contains(&(5 << 19))));
    assert_eq!(extents.last().unwrap().range.end, SIZE);
}

#[test]
fn requests_that_cannot_be_done_are_answered_and_the_connection_lives() {
    let served = Served::raw(SIZE);
    let mut client = served.client();
    assert_eq!(errno(client.write_at(&[0; 1024], SIZE - 512, false)), 28);
    assert_eq!(errno(client.read_at(&mut [0; 1024], SIZE - 512)), 22);
    assert_eq!(errno(client.read_at(&mut [], 0)), 22);
    assert_eq!(errno(client.trim(SIZE..SIZE + 1)), 28);
    client.write_at(&[1; 512], SIZE - 512, false).unwrap();
}

#[test]
fn errors_of_the_disk_reach_the_client_as_errno() {
    let files = MemoryFiles::new(1);
    let path = Path::new("/a");
    let disk = RawDisk::create(&*files, path, SIZE).unwrap();
    let served = Served::new(|_| Arc::new(disk));
    let mut client = served.client();
    files.refuse(path, Some(ErrorKind::StorageFull));
    assert_eq!(errno(client.write_at(&[1; 512], 0, false)), 28);
    files.refuse(path, Some(ErrorKind::Other));
    assert_eq!(errno(client.write_at(&vec![1; 3 << 20], 0, false)), 5);
    assert_eq!(errno(client.flush()), 5);
    files.refuse(path, None);
    client.write_at(&[1; 512], 0, false).unwrap();
    files.kill_after(0);
    assert_eq!(errno(client.write_at(&[1; 512], 0, false)), 5);
    assert_eq!(errno(client.read_at(&mut [0; 512], 0)), 5);
}

#[test]
fn a_read_only_disk_is_announced_and_refuses() {
    let files = MemoryFiles::new(1);
    RawDisk::create(&*files, Path::new("/a"), SIZE).unwrap();
    let disk = RawDisk::open(&*files, Path::new("/a"), Open::Read).unwrap();
    let served = Served::new(|_| Arc::new(disk));
    let mut client = served.client();
    assert!(client.read_only());
    assert_eq!(errno(client.write_at(&[1; 512], 0, false)), 1);
}

#[test]
fn a_closed_tracker_answers_with_shutdown() {
    let (_, machine) = Machine::in_memory(1, 1, SIZE);
    let tracker = machine.tracking();
    let disk = tracker.disk(Machine::id(0)).unwrap();
    let served = Served::new(|_| disk);
    let mut client = served.client();
    client.write_at(&[1; 512], 0, true).unwrap();
    tracker.close().unwrap();
    assert_eq!(errno(client.write_at(&[1; 512], 0, false)), 108);
}

#[test]
fn exports_come_and_go_and_a_removed_one_closes_its_connections() {
    let served = Served::raw(SIZE);
    let disk = served.exports.get("disk").unwrap();
    served.exports.add("second", disk);
    assert_eq!(served.exports.names(), ["disk", "second"]);
    let mut first = served.client();
    let mut second = Client::connect(served.server.endpoint(), "second").unwrap();
    second.flush().unwrap();
    assert!(served.exports.remove("second"));
    assert!(!served.exports.remove("second"));
    assert!(matches!(second.flush(), Err(ClientError::Broke { .. })));
    first.flush().unwrap();
    let refused = Client::connect(served.server.endpoint(), "second").unwrap_err();
    assert!(matches!(refused, ClientError::Refused { .. }), "{refused}");
}

#[test]
fn a_server_on_tcp_serves_and_names_its_port() {
    let served = Served::raw(SIZE);
    let any = Endpoint::Tcp(([127, 0, 0, 1], 0).into());
    let server = Server::bind(&any, served.exports.clone()).unwrap();
    let mut client = Client::connect(server.endpoint(), "disk").unwrap();
    client.write_at(&[5; 512], 0, false).unwrap();
    let uri = server.uri("disk").to_string();
    assert!(uri.starts_with("nbd://127.0.0.1:") && !uri.contains(":0/"), "{uri}");
}

#[test]
fn a_shutdown_ends_every_connection_and_frees_the_endpoint() {
    let mut served = Served::raw(SIZE);
    let mut clients: Vec<Client> = (0..8).map(|_| served.client()).collect();
    let mut silent = connect(served.server.endpoint());
    served.server.shutdown();
    served.server.shutdown();
    for client in &mut clients {
        assert!(matches!(client.flush(), Err(ClientError::Broke { .. })));
    }
    silent.read_to_end(&mut Vec::new()).unwrap();
    let endpoint = served.server.endpoint().clone();
    let again = Server::bind(&endpoint, served.exports.clone()).unwrap();
    Client::connect(again.endpoint(), "disk").unwrap().flush().unwrap();
}

#[test]
fn the_socket_of_a_dead_server_is_replaced_and_of_a_living_one_not() {
    let served = Served::raw(SIZE);
    let living = Server::bind(served.server.endpoint(), served.exports.clone());
    assert_eq!(living.unwrap_err().kind(), ErrorKind::AddrInUse);
    served.client().flush().unwrap();
    let stale = served.folder.path().join("stale.sock");
    drop(UnixListener::bind(&stale).unwrap());
    assert!(stale.exists());
    let server = Server::bind(&Endpoint::Unix(stale), served.exports.clone()).unwrap();
    Client::connect(server.endpoint(), "disk").unwrap().flush().unwrap();
}

#[test]
fn many_requests_in_one_packet_are_all_answered() {
    let served = Served::raw(SIZE);
    let mut stream = transmission(served.server.endpoint());
    let write = |cookie: u64| write_request(cookie, cookie * 512, &[cookie as u8; 512]);
    let packet: Vec<u8> = (0..200).flat_map(write).collect();
    stream.write_all(&packet).unwrap();
    for _ in 0..200 {
        assert_eq!(simple_reply(&mut stream), 0);
    }
    let mut read = vec![0; 200 * 512];
    served.client().read_at(&mut read, 0).unwrap();
    assert!(read.chunks(512).enumerate().all(|(nth, sector)| sector == [nth as u8; 512]));
}

/// A disk that does no batch of writes alone: the first one lasts until another has begun, or a read has failed,
/// as all do from [`UNREADABLE`] on.
#[derive(Debug)]
struct Sociable {
    disk: RawDisk,
    calls: Mutex<usize>,
    called: Condvar,
}

const UNREADABLE: u64 = 1 << 20;

impl Sociable {
    fn served() -> Served {
        Served::new(|folder| {
            let disk = RawDisk::create(&RealFiles, &folder.join("disk.img"), SIZE).unwrap();
            Arc::new(Self { disk, calls: Mutex::new(0), called: Condvar::new() })
        })
    }

    fn call(&self) -> MutexGuard<'_, usize> {
        let mut calls = self.calls.lock().unwrap();
        *calls += 1;
        self.called.notify_all();
        calls
    }
}

impl BlockDevice for Sociable {
    fn size_bytes(&self) -> u64 {
        self.disk.size_bytes()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        if UNREADABLE <= offset {
            drop(self.call());
            return Err(ErrorKind::Other.into());
        }
        self.disk.read_at(buffer, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64, fua: bool) -> io::Result<()> {
        self.disk.write_at(data, offset, fua)
    }

    fn write_each_at(&self, writes: &[DiskWrite<'_>]) -> Vec<io::Result<()>> {
        let alone = |calls: &mut usize| *calls < 2;
        let waited = self.called.wait_timeout_while(self.call(), Duration::from_secs(10), alone);
        if waited.unwrap().1.timed_out() {
            return writes.iter().map(|_| Err(ErrorKind::TimedOut.into())).collect();
        }
        self.disk.write_each_at(writes)
    }

    fn zero(&self, range: Range<u64>, punch: bool, fua: bool) -> io::Result<()> {
        self.disk.zero(range, punch, fua)
    }

    fn flush(&self) -> io::Result<()> {
        self.disk.flush()
    }

    fn next_data(&self, from: u64) -> io::Result<Option<Range<u64>>> {
        self.disk.next_data(from)
    }
}

#[test]
fn what_comes_while_the_disk_is_written_to_is_read_and_done() {
    let served = Sociable::served();
    let mut stream = transmission(served.server.endpoint());
    let write = |cookie| write_request(cookie, cookie * 512, &[cookie as u8 + 1; 512]);
    stream.write_all(&[write(0), write(1), request(command::READ, 7, 4096, 512)].concat()).unwrap();
    // It is read although the batch before it has no reply yet.
    let mut reply = [0; 16 + 512];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(reply[8..16], 7_u64.to_be_bytes());
    stream.write_all(&[write(2), write(3)].concat()).unwrap();
    let errors: Vec<u32> = (0..4).map(|_| simple_reply(&mut stream)).collect();
    assert_eq!(errors, [0; 4]);
    let mut read = [0; 4 * 512];
    served.client().read_at(&mut read, 0).unwrap();
    assert!(read.chunks(512).zip(1..).all(|(sector, nth)| sector == [nth; 512]));
}

#[test]
fn nothing_follows_a_reply_that_broke_off() {
    let served = Sociable::served();
    let mut stream = transmission(served.server.endpoint());
    let write = |cookie| write_request(cookie, cookie * 512, &[1; 512]);
    // The writes are answered once the read has failed in its second piece.
    let read = request(command::READ, 7, 0, UNREADABLE as usize + 512);
    stream.write_all(&[write(0), write(1), read].concat()).unwrap();
    let mut answered = Vec::new();
    stream.read_to_end(&mut answered).unwrap();
    assert!(answered.len() <= 16 + UNREADABLE as usize, "{}", answered.len());
}

#[test]
fn the_log_of_writes_that_overlap_at_depth_leads_to_what_the_disk_holds() {
    for seed in 0..24 {
        let mut choose = choices(seed);
        let (_, machine) = Machine::in_memory(seed, 1, SIZE);
        let tracker = machine.tracking();
        let disk = tracker.disk(Machine::id(0)).unwrap();
        let served = Served::new(|_| disk);
        let mut stream = transmission(served.server.endpoint());
        let mut replies = stream.try_clone().unwrap();
        let count = 600;
        let answered = thread::spawn(move || {
            let mut cookies: Vec<u64> = (0..count).map(|_| reply_cookie(&mut replies)).collect();
            cookies.sort_unstable();
            cookies
        });
        let mut packet = Vec::new();
        for cookie in 0..count {
            let length = 512 * (1 + choose(8));
            let offset = 512 * choose(64) as u64;
            packet.extend(match choose(12) {
                0 => request(command::FLUSH, cookie, 0, 0),
                1 => request(command::TRIM, cookie, offset, length),
                _ => write_request(cookie, offset, &vec![choose(256) as u8; length]),
            });
            if choose(6) == 0 {
                stream.write_all(&std::mem::take(&mut packet)).unwrap();
            }
        }
        stream.write_all(&packet).unwrap();
        assert_eq!(answered.join().unwrap(), (0..count).collect::<Vec<_>>(), "seed {seed}");

        let cut = tracker.cut(1).unwrap();
        let log = LogReader::open(&*machine.files, &cut.logs[0].path, HeaderTrust::Verified);
        let replica =
            RawDisk::create(&*MemoryFiles::new(seed), Path::new("/replica"), SIZE).unwrap();
        log.unwrap().apply_to(&replica).unwrap();
        assert!(content(&replica) == content(&machine.raw(0)), "seed {seed}");
    }
}

#[test]
fn commands_and_flags_that_were_not_offered_are_invalid() {
    let served = Served::raw(SIZE);
    let mut stream = transmission(served.server.endpoint());
    let request = |command, flags| Request { flags, command, cookie: 1, offset: 0, length: 512 };
    for (request, expected) in [
        (request(99, 0), 22),
        (request(command::WRITE_ZEROES, flag::FAST_ZERO), 22),
        (request(command::BLOCK_STATUS, 0), 22), // no context was chosen
        (request(command::READ, flag::DF), 22),
        (request(command::CACHE, 0), 0),
    ] {
        stream.write_all(&request.encode()).unwrap();
        assert_eq!(simple_reply(&mut stream), expected, "{request:?}");
    }
}

#[test]
fn options_that_are_unknown_or_wrong_are_answered_with_their_error() {
    let served = Served::raw(SIZE);
    let mut stream = connect(served.server.endpoint());
    stream.read_exact(&mut [0; 18]).unwrap();
    stream.write_all(&u32::from(FLAG_FIXED_NEWSTYLE).to_be_bytes()).unwrap();
    for (option, data, expected) in [
        (5, &b""[..], 0x8000_0001_u32), // STARTTLS
        (12345, b"abc", 0x8000_0001),   // nobody knows
        (option::LIST, b"x", 0x8000_0003),
        (option::GO, b"\0\0\0\x04none\0\0", 0x8000_0006),
        (option::GO, b"\xff\xff\xff\xff", 0x8000_0003),
        (option::SET_META_CONTEXT, b"\0\0\0\x04disk\0\0\0\0", 0x8000_0003), // no structured replies
        (option::ABORT, b"", 1),
    ] {
        stream.write_all(&option_bytes(option, data)).unwrap();
        let mut reply = [0; 20];
        stream.read_exact(&mut reply).unwrap();
        assert_eq!(reply[8..12], option.to_be_bytes());
        assert_eq!(reply[12..16], expected.to_be_bytes(), "option {option}");
    }
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_write_beyond_the_limit_closes_its_connection_only() {
    let served = Served::raw(SIZE);
    let mut other = served.client();
    let mut stream = transmission(served.server.endpoint());
    let length = (32 << 20) + 1;
    let write = Request { flags: 0, command: command::WRITE, cookie: 1, offset: 0, length };
    stream.write_all(&write.encode()).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    other.flush().unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn nonsense_closes_its_connection_and_nothing_else(
        past_handshake: bool,
        honest_flags: bool,
        head in prop::sample::select(vec![
            Vec::new(),
            OPTION_MAGIC.to_be_bytes().to_vec(),
            option_bytes(option::GO, &[]),
            option_bytes(option::SET_META_CONTEXT, &[0, 0, 0, 4, b'd']),
            0x2560_9513_u32.to_be_bytes().to_vec(),
        ]),
        garbage in prop::collection::vec(any::<u8>(), 0..600),
    ) {
        let served = Served::raw(1 << 16);
        let mut other = served.client();
        let open = if past_handshake { transmission } else { connect };
        let mut stream = open(served.server.endpoint());
        if !past_handshake && honest_flags {
            stream.write_all(&3_u32.to_be_bytes()).unwrap();
        }
        // The server may have closed the connection before it has all of it.
        _ = stream.write_all(&head);
        _ = stream.write_all(&garbage);
        _ = stream.shutdown(std::net::Shutdown::Write);
        _ = stream.read_to_end(&mut Vec::new());
        other.write_at(&[1; 512], 0, false).unwrap();
        served.client().flush().unwrap();
    }

    /// Every request that can be told from the next is answered, once, and the connection lives.
    #[test]
    fn requests_with_wild_fields_are_all_answered(
        requests in prop::collection::vec(
            (any::<u16>(), 0..12_u16, prop_oneof![0..70_000_u64, any::<u64>()], 0..5000_u32, any::<u32>()),
            1..20,
        ),
    ) {
        let served = Served::raw(1 << 16);
        let mut stream = transmission(served.server.endpoint());
        let mut sent = Vec::new();
        let mut read_lengths = std::collections::BTreeMap::new();
        for (nth, (flags, command, offset, short, long)) in requests.into_iter().enumerate() {
            if command == command::DISC {
                continue;
            }
            let moves_data = command == command::READ || command == command::WRITE;
            let length = if moves_data { short } else { long };
            let request = Request { flags: flags & 0x3f, command, cookie: nth as u64, offset, length };
            sent.extend(request.encode());
            if command == command::WRITE {
                sent.extend(vec![7; length as usize]);
            }
            read_lengths.insert(nth as u64, if command == command::READ { length } else { 0 });
        }
        stream.write_all(&sent).unwrap();
        while !read_lengths.is_empty() {
            let mut reply = [0; 16];
            stream.read_exact(&mut reply).unwrap();
            prop_assert_eq!(&reply[..4], &SIMPLE_REPLY_MAGIC.to_be_bytes());
            let cookie = u64::from_be_bytes(*reply.last_chunk().unwrap());
            let length = read_lengths.remove(&cookie);
            prop_assert!(length.is_some(), "cookie {} was not asked for", cookie);
            if reply[4..8] == [0; 4] {
                stream.read_exact(&mut vec![0; length.unwrap() as usize]).unwrap();
            }
        }
    }
}
