//! What the compiler cannot see: floors, purity, owners of clocks and threads, names, licences, pins.
//!
//! The rules are data at the top, each with its reason; the checks under them name every violation with
//! its file and line; the last module proves that each check can fail. Set `TIDY_ROOT` to check another
//! checkout.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    missing_docs,
    reason = "a test says what it expects by failing"
)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::{env, fs};

/// Modules of `src`, the lowest floor first. A module names only lower floors.
const FLOORS: &[&[&str]] = &[
    &["domain"],
    &["ports", "views"],
    &["store", "disk", "replica", "replication", "drivers", "actors"],
    &["replay"],
    &["api", "portal", "sim"],
    &["service"],
    &["cli"],
];

/// Neighbours on one floor that may meet: (who, whom).
const MEETINGS: &[(&str, &str)] = &[("replication", "disk"), ("replication", "replica")];

/// What `domain` never names: a decision depends on the command and the state alone.
const IMPURE: &[&str] = &[
    "std::env",
    "std::fs",
    "std::io",
    "std::net",
    "std::process",
    "std::sync",
    "std::thread",
    "Instant",
    "SystemTime",
    "HashMap",
    "HashSet",
    "RandomState",
    "Uuid::new_v4",
    "actix",
    "Utc",
    "Local",
    "rand",
    "tokio",
    "tracing",
];

/// Something that makes a run differ from the next, and the places of `src` that own it.
struct Owned {
    what: &'static str,
    /// Paths, as code names them.
    names: &'static [&'static str],
    /// (file, or folder with a slash at the end; why it is an owner).
    owners: &'static [(&'static str, &'static str)],
}

const OWNED: &[Owned] = &[
    Owned {
        what: "the wall clock",
        names: &["SystemTime::now", "SystemTime::elapsed", "Utc::now", "Local::now"],
        owners: &[("service/clock.rs", "the adapter of the clock port")],
    },
    Owned {
        what: "the monotonic clock",
        names: &["Instant::now", "Instant::elapsed"],
        owners: &[
            ("actors/supervisor.rs", "timers of retries; the clock of tokio, which tests pause"),
            ("disk/nbd/session.rs", "ends a handshake that takes too long"),
            ("disk/nbd/buffers.rs", "looks out for a client for a moment"),
            ("replication/pace.rs", "a limit of bandwidth; the clock of tokio, which tests pause"),
            ("drivers/lab/guest.rs", "paces the writes of a guest"),
            ("sim/clock.rs", "virtual time, which is tokio's paused clock"),
            ("sim/driver/event_loop.rs", "timers, by virtual time as well"),
        ],
    },
    Owned {
        what: "sleep",
        names: &["thread::sleep", "thread::park_timeout", "time::sleep", "time::interval"],
        owners: &[
            ("replication/engine.rs", "looks after tracking at an interval"),
            ("replication/pace.rs", "waits until a limit of bandwidth has let pass what was sent"),
            ("drivers/lab/faults.rs", "the latency of a simulated link"),
            ("store/sled_tree.rs", "sled only tries its lock, and cannot wait for it"),
            ("cli/replay/play.rs", "plays a log at a pace that a person follows"),
            ("cli/plan.rs", "looks at a run that is waited for again"),
            ("cli/vault/lease.rs", "renews a lease when half of it is over"),
            ("sim/", "lets virtual time pass"),
        ],
    },
    Owned {
        what: "a thread",
        names: &["thread::spawn", "thread::scope", "thread::Builder", "spawn_blocking"],
        owners: &[
            ("store/log.rs", "the committer, which groups commits while a flush runs"),
            ("disk/nbd/", "guest I/O waits for nothing that runs on tokio"),
            ("drivers/lab/guest.rs", "a guest writes on a thread of its own"),
            ("drivers/lab/site.rs", "power and disks of the lab block"),
            ("replica/sealers.rs", "compression takes every core; results keep their order"),
            ("replication/engine.rs", "copying reads disks, which blocks"),
            ("replication/copy.rs", "a region is sent while the next is read"),
            ("replication/differences.rs", "regions are compared on all cores"),
            ("replay/keeper.rs", "a file is searched, which blocks"),
            ("replication/resync.rs", "regions are compared while one is sent"),
            ("service/cluster.rs", "attaching disks where a VM was moved blocks"),
            ("service/running.rs", "attaching and closing disks blocks"),
            ("service/sites.rs", "attaching disks blocks"),
            ("cli/demo/", "comparing disks blocks"),
            ("sim/inline.rs", "blocking work, which is waited for in no virtual time"),
            ("sim/explore.rs", "whole runs beside each other, each on one thread"),
        ],
    },
    Owned {
        what: "randomness",
        names: &[
            "Uuid::new_v4",
            "Uuid::now_v7",
            "rand",
            "fastrand",
            "getrandom",
            "RandomState",
            "SystemRandom",
        ],
        owners: &[("service/random.rs", "the adapter of the randomness port")],
    },
    Owned {
        what: "a map without an order",
        names: &["HashMap", "HashSet", "hash_map", "hash_set"],
        owners: &[],
    },
    Owned {
        what: "the file system",
        names: &["std::fs", "tokio::fs"],
        owners: &[
            ("store/", "the event log's files, beside those that sled opens itself"),
            ("disk/files/real.rs", "the adapter of the file port"),
            ("disk/tracker/mod.rs", "the kernel's boot id"),
            ("disk/nbd/socket.rs", "a socket that a dead server left behind is a file"),
            ("replay/checkpoints.rs", "states kept beside a log that is replayed"),
            ("service/", "the configuration and the data folder"),
            ("cli/", "exports and imports"),
            ("sim/beside.rs", "scenarios, and the files that they name"),
        ],
    },
    Owned {
        what: "the environment",
        names: &["env::var", "env::var_os", "env::vars", "env::args", "env::temp_dir"],
        owners: &[
            ("service/logging.rs", "NO_COLOR"),
            ("service/control.rs", "PATH, in which the programs of recovery plans are looked for"),
            ("service/storage.rs", "credentials, which no file needs to hold"),
            ("cli/", "what the caller's shell says"),
            ("sim/huge_pages.rs", "how the C library is tuned, before anything is simulated"),
        ],
    },
    Owned {
        what: "the end of the process",
        names: &["process::exit", "process::abort"],
        owners: &[("cli/", "whoever reads the result has gone")],
    },
];

/// Words that say nothing about what a file holds.
const BANNED_NAMES: &[&str] =
    &["util", "helper", "common", "misc", "shared", "types", "type", "manager"];

/// The whole top level, dotfiles and licences aside.
const TOP_LEVEL: &[&str] =
    &["Cargo.toml", "Cargo.lock", "README.md", "src", "tests", "simulations", "config"];

/// Traces of unfinished work and of one person's machine; split so that this file has none.
const LEFTOVERS: &[&str] = &[
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("todo", "!("),
    concat!("unimplemented", "!("),
    concat!("dbg", "!("),
    concat!("#[ig", "nore"),
    concat!("#[should_", "panic"),
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
    concat!("/tm", "p/"),
];

/// Lines of code, unit tests aside, that a reader still finds a way through.
const LINES_MAX: usize = 1000;

/// Crates whose version is part of a format or cannot move: (name, why).
const PINNED: &[(&str, &str)] = &[
    ("sled", "its file format is the event log's"),
    ("bincode", "its encoding is that of stored payloads"),
    ("backoff", "its schedule is the retry policy, and it has no later release"),
];

#[test]
fn a_module_names_only_lower_floors() {
    report(sources().flat_map(above_its_floor));
}

#[test]
fn domain_is_pure() {
    let domain = sources().filter(|file| file.path.starts_with("src/domain/"));
    report(domain.flat_map(|file| naming(file, IMPURE, "domain is pure")));
}

#[test]
fn clocks_threads_randomness_and_files_are_used_only_by_their_owners() {
    report(OWNED.iter().flat_map(|owned| sources().flat_map(|file| not_owned(file, owned))));
}

#[test]
fn every_owner_still_uses_what_it_owns() {
    let sources: Vec<&File> = sources().collect();
    report(OWNED.iter().flat_map(|owned| idle_owners(&sources, owned)));
}

#[test]
fn every_file_starts_with_what_it_is_and_why() {
    let rust = texts().iter().filter(|file| file.is_rust());
    report(rust.filter_map(without_module_docs));
}

#[test]
fn no_file_is_longer_than_a_reader_can_follow() {
    report(sources().filter_map(too_long));
}

#[test]
fn files_are_named_after_what_they_hold() {
    report(texts().iter().filter_map(|file| says_nothing(&file.path)));
}

#[test]
fn the_top_level_holds_nothing_else() {
    let ignored = fs::read_to_string(root().join(".gitignore")).unwrap_or_default();
    let names = fs::read_dir(root())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    report(names.filter(|name| is_foreign(name, &ignored)));
}

#[test]
fn nothing_is_left_unfinished() {
    report(texts().iter().flat_map(leftovers));
}

#[test]
fn every_entry_of_the_error_catalogue_can_happen() {
    report(unused_codes(sources()));
}

#[test]
fn every_crate_has_a_licence_that_the_binary_can_carry() {
    let policy = table(".deny.toml");
    let allow: BTreeSet<&str> = strings(&policy["licenses"]["allow"]).collect();
    report(crates().iter().filter_map(|it| unlicensed(it, &allow)));
}

#[test]
fn every_crate_comes_from_crates_io() {
    report(crates().iter().filter_map(foreign_source));
}

#[test]
fn no_crate_is_banned() {
    let policy = table(".deny.toml");
    let banned = policy["bans"]["deny"].as_array().unwrap();
    let banned: BTreeSet<&str> = banned.iter().map(|it| it["crate"].as_str().unwrap()).collect();
    let lock = table("Cargo.lock");
    let found = locked(&lock).filter(|(name, _)| banned.contains(name));
    report(found.map(|(name, version)| format!("Cargo.lock: {name} {version} is banned")));
}

#[test]
fn pinned_versions_stay_pinned() {
    report(loose_pins(&table("Cargo.toml"), &table("Cargo.lock")));
}

#[test]
fn every_ignored_advisory_says_why() {
    report(unargued(&table(".deny.toml")));
}

/// A text file; the path is relative to the checkout.
struct File {
    path: String,
    text: String,
    /// What its code names, if it is Rust.
    paths: Vec<CodePath>,
    /// The same without unit tests.
    product: Vec<CodePath>,
    /// The last line that belongs to no unit test.
    last_line: usize,
}

impl File {
    fn new(path: String, text: String) -> Self {
        let mut file = Self { path, text, paths: Vec::new(), product: Vec::new(), last_line: 0 };
        if file.is_rust() {
            let all = tokens(&file.text);
            let product = without_unit_tests(&all);
            file.paths = paths(&all);
            file.product = paths(&product);
            file.last_line = product.last().map_or(0, |token| token.line);
        }
        file
    }

    fn is_rust(&self) -> bool {
        self.path.rsplit_once('.').is_some_and(|(_, end)| end == "rs")
    }

    fn at(&self, line: usize, problem: &str) -> String {
        format!("{}:{line}: {problem}", self.path)
    }

    /// The path under `src/`.
    fn place(&self) -> &str {
        self.path.strip_prefix("src/").unwrap_or(&self.path)
    }

    /// `disk` of `src/disk/hrl/format.rs`; `lib` of `src/lib.rs`.
    fn module(&self) -> &str {
        let first = self.place().split('/').next().unwrap_or_default();
        first.strip_suffix(".rs").unwrap_or(first)
    }

    /// How many `super` lead to the root of the crate.
    fn depth(&self) -> usize {
        let place = self.place();
        place.split('/').count() - usize::from(place.ends_with("/mod.rs"))
    }
}

/// A crate as `cargo metadata` describes it.
struct Crate {
    name: String,
    licence: String,
    source: Option<String>,
}

fn report(violations: impl IntoIterator<Item = String>) {
    let violations: Vec<String> = violations.into_iter().collect();
    assert!(violations.is_empty(), "{} violations\n{}", violations.len(), violations.join("\n"));
}

// Checks

fn above_its_floor(file: &File) -> Vec<String> {
    let floor = |module: &str| FLOORS.iter().position(|floor| floor.contains(&module));
    let module = file.module();
    // The roots of the library and of the binary stand above every floor.
    let own = match module {
        "lib" | "main" => FLOORS.len(),
        _ => match floor(module) {
            Some(own) => own,
            None => return vec![file.at(1, &format!("module {module} has no floor"))],
        },
    };
    let mut violations = Vec::new();
    for path in &file.paths {
        let Some(named) = module_named(&path.segments, file.depth()) else { continue };
        let meeting = MEETINGS.contains(&(module, named));
        let allowed = named == module || meeting || floor(named).is_some_and(|it| it < own);
        if !allowed {
            violations.push(file.at(path.line, &format!("{module} names {named}")));
        }
    }
    violations
}

/// The module of the crate that a path begins with. In a unit test the first `super` is the file
/// itself; what such a path names is no module with a floor.
fn module_named(path: &[String], depth: usize) -> Option<&str> {
    let supers = path.iter().take_while(|it| *it == "super").count();
    match path.first()?.as_str() {
        "crate" | "lifeboat" => path
            .get(1)
            .map(String::as_str)
            .filter(|it| it.starts_with(|first: char| first.is_ascii_lowercase())),
        "super" if supers == depth => path
            .get(supers)
            .map(String::as_str)
            .filter(|name| FLOORS.iter().any(|floor| floor.contains(name))),
        _ => None,
    }
}

/// Every place outside unit tests where one of `names` is named.
fn naming(file: &File, names: &[&str], rule: &str) -> Vec<String> {
    let found = file.product.iter().filter_map(|path| {
        let name = names.iter().find(|name| path.has(name))?;
        Some(file.at(path.line, &format!("{name}: {rule}")))
    });
    found.collect()
}

fn not_owned(file: &File, owned: &Owned) -> Vec<String> {
    if owned.owners.iter().any(|(owner, _)| owns(owner, file)) {
        return Vec::new();
    }
    naming(file, owned.names, &format!("this file does not own {}", owned.what))
}

fn idle_owners(sources: &[&File], owned: &Owned) -> Vec<String> {
    let uses = |file: &File| !naming(file, owned.names, "").is_empty();
    let idle = owned
        .owners
        .iter()
        .filter(|(owner, _)| !sources.iter().any(|file| owns(owner, file) && uses(file)));
    idle.map(|(owner, _)| format!("src/{owner}: is an owner of {} without use", owned.what))
        .collect()
}

fn owns(owner: &str, file: &File) -> bool {
    file.place() == owner || (owner.ends_with('/') && file.place().starts_with(owner))
}

fn without_module_docs(file: &File) -> Option<String> {
    (!file.text.starts_with("//!")).then(|| file.at(1, "does not start with //!"))
}

fn too_long(file: &File) -> Option<String> {
    let problem = || file.at(file.last_line, &format!("is longer than {LINES_MAX} lines"));
    (LINES_MAX < file.last_line).then(problem)
}

fn says_nothing(path: &str) -> Option<String> {
    let stems = path.split('/').filter_map(|part| part.split('.').next());
    let word = stems.flat_map(|stem| stem.split(['_', '-'])).find(|word| {
        BANNED_NAMES.contains(word)
            || word.strip_suffix('s').is_some_and(|it| BANNED_NAMES.contains(&it))
    })?;
    Some(format!("{path}: \"{word}\" does not say what it holds"))
}

fn is_foreign(name: &str, ignored: &str) -> bool {
    let known = TOP_LEVEL.contains(&name) || name.starts_with('.') || name.starts_with("LICENSE");
    !known && !ignored.lines().any(|line| line.trim_matches('/') == name)
}

fn leftovers(file: &File) -> Vec<String> {
    let lines = file.text.lines().zip(1..);
    lines
        .flat_map(|(text, line)| {
            let found = LEFTOVERS.iter().filter(move |it| text.contains(**it));
            found.map(move |it| file.at(line, &format!("{it} is left over")))
        })
        .collect()
}

fn unused_codes<'a>(sources: impl Iterator<Item = &'a File>) -> Vec<String> {
    let (catalogue, others): (Vec<&File>, Vec<&File>) =
        sources.partition(|file| file.path == "src/domain/catalogue.rs");
    let named = others.iter().flat_map(|file| &file.product);
    let used: BTreeSet<&str> = named
        .filter_map(|path| {
            let code = path.segments.iter().position(|it| it == "Code")?;
            path.segments.get(code + 1).map(String::as_str)
        })
        .collect();
    let mut violations = Vec::new();
    for file in catalogue {
        for (text, line) in file.text.lines().zip(1..) {
            let Some((code, rest)) = text.trim().split_once(" = \"SR-") else { continue };
            if !used.contains(code) {
                let id = rest.split('"').next().unwrap_or_default();
                violations.push(file.at(line, &format!("nothing fails with {code} (SR-{id})")));
            }
        }
    }
    violations
}

fn unlicensed(it: &Crate, allow: &BTreeSet<&str>) -> Option<String> {
    let problem = match licence_allowed(&it.licence, allow) {
        Some(true) => return None,
        Some(false) => "is not allowed by .deny.toml",
        None => "is not an SPDX expression",
    };
    Some(format!("{}: licence \"{}\" {problem}", it.name, it.licence))
}

/// Whether a licence expression can be met with `allow`; `None` if it is not an expression.
fn licence_allowed(expression: &str, allow: &BTreeSet<&str>) -> Option<bool> {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words = spaced.split_whitespace().peekable();
    let allowed = any_of(&mut words, allow)?;
    words.next().is_none().then_some(allowed)
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn any_of(words: &mut Words<'_>, allow: &BTreeSet<&str>) -> Option<bool> {
    let mut allowed = all_of(words, allow)?;
    while words.next_if_eq(&"OR").is_some() {
        allowed |= all_of(words, allow)?;
    }
    Some(allowed)
}

fn all_of(words: &mut Words<'_>, allow: &BTreeSet<&str>) -> Option<bool> {
    let mut allowed = one_licence(words, allow)?;
    while words.next_if_eq(&"AND").is_some() {
        allowed &= one_licence(words, allow)?;
    }
    Some(allowed)
}

fn one_licence(words: &mut Words<'_>, allow: &BTreeSet<&str>) -> Option<bool> {
    if words.next_if_eq(&"(").is_some() {
        let allowed = any_of(words, allow)?;
        return words.next_if_eq(&")").map(|_| allowed);
    }
    let licence = words.next().filter(|it| !["OR", "AND", "WITH", ")"].contains(it))?;
    if words.next_if_eq(&"WITH").is_some() {
        let exception = words.next()?;
        return Some(allow.contains(format!("{licence} WITH {exception}").as_str()));
    }
    Some(allow.contains(licence))
}

fn foreign_source(it: &Crate) -> Option<String> {
    const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";
    let source = it.source.as_deref()?;
    (source != CRATES_IO).then(|| format!("{}: comes from {source}", it.name))
}

fn loose_pins(manifest: &toml::Table, lock: &toml::Table) -> Vec<String> {
    let mut violations = Vec::new();
    for (name, why) in PINNED {
        let Some(dependency) = manifest["dependencies"].get(name) else { continue };
        let version = dependency.as_str().or_else(|| dependency.get("version")?.as_str());
        let Some(pin) = version.and_then(|version| version.strip_prefix('=')) else {
            violations.push(format!("Cargo.toml: {name} is not pinned, and {why}"));
            continue;
        };
        if !locked(lock).any(|it| it == (*name, pin)) {
            violations.push(format!("Cargo.lock: {name} is not the pinned {pin}"));
        }
    }
    violations
}

fn unargued(policy: &toml::Table) -> Vec<String> {
    let ignored = policy["advisories"]["ignore"].as_array().unwrap();
    let reason = |it: &toml::Value| it.get("reason")?.as_str().map(str::len);
    let unargued = ignored.iter().filter(|it| reason(it).is_none_or(|letters| letters < 40));
    unargued.map(|it| format!(".deny.toml: {it:?} is ignored without a reason")).collect()
}

// Reading Rust

/// An identifier, a `::`, or another character of code.
#[derive(Clone, Debug, PartialEq)]
struct Token {
    line: usize,
    text: String,
}

/// A path as code names it, with the groups of `use` taken apart.
#[derive(Clone, Debug)]
struct CodePath {
    line: usize,
    segments: Vec<String>,
}

impl CodePath {
    /// Whether the segments of `name` follow one another in this path.
    fn has(&self, name: &str) -> bool {
        let name: Vec<&str> = name.split("::").collect();
        self.segments.windows(name.len()).any(|segments| segments == name)
    }
}

fn tokens(text: &str) -> Vec<Token> {
    let code = without_comments_and_literals(text);
    let mut tokens: Vec<Token> = Vec::new();
    for (row, line) in code.lines().zip(1..) {
        let mut rest = row.trim_start();
        while let Some(first) = rest.chars().next() {
            let length = match first {
                _ if is_word(first) => rest.find(|it| !is_word(it)).unwrap_or(rest.len()),
                ':' if rest.starts_with("::") => 2,
                _ => first.len_utf8(),
            };
            let (token, after) = rest.split_at(length);
            tokens.push(Token { line, text: token.to_owned() });
            rest = after.trim_start();
        }
    }
    tokens
}

fn is_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

/// The text with blanks for comments, strings and characters; lines stay where they are.
fn without_comments_and_literals(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    let mut before = ' ';
    while let Some(first) = rest.chars().next() {
        let blanked = blank_length(rest, before);
        let length = if blanked == 0 { first.len_utf8() } else { blanked };
        let (piece, after) = rest.split_at(length);
        if blanked == 0 {
            code.push_str(piece);
        } else {
            code.push(' ');
            code.extend(piece.chars().filter(|it| *it == '\n'));
        }
        before = if blanked == 0 { first } else { ' ' };
        rest = after;
    }
    code
}

/// The length of the comment or literal that `rest` begins with; 0 if it begins with code.
fn blank_length(rest: &str, before: char) -> usize {
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return block_comment_length(rest);
    }
    if rest.starts_with('"') {
        return quoted_length(rest, '"');
    }
    if let Some(after) = rest.strip_prefix('\'') {
        let mut letters = after.chars();
        let (one, two) = (letters.next(), letters.next());
        // Anything else is a lifetime.
        let is_character = one == Some('\\') || two == Some('\'');
        return if is_character { quoted_length(rest, '\'') } else { 0 };
    }
    if !is_word(before) {
        let raw = rest.trim_start_matches(['b', 'c']);
        let prefix = rest.len() - raw.len();
        if let Some(fenced) = raw.strip_prefix('r').filter(|_| prefix <= 1) {
            let fence = fenced.len() - fenced.trim_start_matches('#').len();
            if fenced[fence..].starts_with('"') {
                let end = format!("\"{}", "#".repeat(fence));
                let start = prefix + 1 + fence + 1;
                let length = rest[start..].find(&end).map(|it| start + it + end.len());
                return length.unwrap_or(rest.len());
            }
        }
    }
    0
}

fn quoted_length(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, letter) in rest.char_indices().skip(1) {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if letter == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// Block comments nest.
fn block_comment_length(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest[at..].starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

/// The tokens without the items that are compiled for tests only.
fn without_unit_tests(tokens: &[Token]) -> Vec<Token> {
    const MARK: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut product = Vec::with_capacity(tokens.len());
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        let ahead = tokens[at..].iter().map(|it| it.text.as_str());
        if ahead.take(MARK.len()).eq(MARK) {
            at = end_of_item(tokens, at + MARK.len());
        } else {
            product.push(token.clone());
            at += 1;
        }
    }
    product
}

/// Just after the item that starts at `at`: its block, or its semicolon.
fn end_of_item(tokens: &[Token], mut at: usize) -> usize {
    let mut depth = 0_usize;
    while let Some(token) = tokens.get(at) {
        at += 1;
        match token.text.as_str() {
            "{" => depth += 1,
            "}" if depth <= 1 => return at,
            "}" => depth -= 1,
            ";" if depth == 0 => return at,
            _ => {}
        }
    }
    at
}

fn paths(tokens: &[Token]) -> Vec<CodePath> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        at = read_path(tokens, at, &[], &mut found);
    }
    found
}

/// Reads the path at `at`, if there is one; answers where to go on.
fn read_path(
    tokens: &[Token],
    mut at: usize,
    parent: &[String],
    found: &mut Vec<CodePath>,
) -> usize {
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text.as_str());
    let line = tokens[at].line;
    let mut segments = parent.to_vec();
    while text(at).starts_with(is_word) {
        segments.push(text(at).to_owned());
        at += 1;
        if text(at) != "::" {
            break;
        }
        at += 1;
    }
    if segments.len() == parent.len() {
        return at + 1;
    }
    if text(at) == "{" && text(at - 1) == "::" {
        at += 1;
        while at < tokens.len() && text(at) != "}" {
            at = read_path(tokens, at, &segments, found);
        }
        return at + 1;
    }
    found.push(CodePath { line, segments });
    at
}

// Reading the repository

fn root() -> PathBuf {
    env::var_os("TIDY_ROOT").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
}

/// Everything that people wrote, the lock file aside. Files that are not text have no rules.
fn texts() -> &'static [File] {
    static TEXTS: LazyLock<Vec<File>> = LazyLock::new(|| {
        let mut paths = Vec::new();
        for name in [".ci", ".cargo", ".config", "src", "tests", "simulations", "config"] {
            collect(&root().join(name), &mut paths);
        }
        let single = ["Cargo.toml", "README.md", ".deny.toml", ".clippy.toml"];
        paths.extend(single.map(|name| root().join(name)));
        let read = paths.iter().filter_map(|path| {
            let text = fs::read_to_string(path).ok()?;
            let path = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
            Some(File::new(path, text))
        });
        read.collect()
    });
    &TEXTS
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let mut entries: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for entry in entries {
        match entry.is_dir() {
            true if entry.ends_with("target") => {}
            true => collect(&entry, files),
            false => files.push(entry),
        }
    }
}

/// The crate's files. What runs before it is compiled is none of them.
fn sources() -> impl Iterator<Item = &'static File> {
    let is_source = |file: &&File| {
        file.is_rust() && file.path.starts_with("src/") && file.path != "src/build.rs"
    };
    let mut sources = texts().iter().filter(is_source).peekable();
    assert!(sources.peek().is_some(), "{} has no sources", root().display());
    sources
}

fn table(name: &str) -> toml::Table {
    let path = root().join(name);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
    text.parse().unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn strings(array: &toml::Value) -> impl Iterator<Item = &str> {
    array.as_array().unwrap().iter().map(|it| it.as_str().unwrap())
}

/// Name and version of every crate of the lock file.
fn locked(lock: &toml::Table) -> impl Iterator<Item = (&str, &str)> {
    let packages = lock["package"].as_array().unwrap().iter();
    packages.map(|it| (it["name"].as_str().unwrap(), it["version"].as_str().unwrap()))
}

/// The crates that this machine's builds use. Fetches those that no build has needed so far.
fn crates() -> Vec<Crate> {
    let host = output("rustc", &["-vV"]);
    let host = host.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
    let metadata = output(
        env!("CARGO"),
        &["metadata", "--locked", "--format-version", "1", "--filter-platform", host],
    );
    let metadata: serde_json::Value = serde_json::from_str(&metadata).unwrap();
    let packages = metadata["packages"].as_array().unwrap().iter();
    packages
        .map(|it| Crate {
            name: format!("{} {}", it["name"].as_str().unwrap(), it["version"].as_str().unwrap()),
            licence: it["license"].as_str().unwrap_or("none").to_owned(),
            source: it["source"].as_str().map(str::to_owned),
        })
        .collect()
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output =
        std::process::Command::new(program).args(arguments).current_dir(root()).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Each check on a text that it must object to, beside one that it must let pass.
mod each_check_can_fail {
    use super::*;

    fn file(path: &str, text: &str) -> File {
        File::new(path.to_owned(), text.to_owned())
    }

    fn lines(violations: &[String]) -> Vec<&str> {
        violations.iter().map(|it| it.split(": ").next().unwrap()).collect()
    }

    #[test]
    fn on_a_floor_that_is_not_lower() {
        let text = "use crate::domain::vm::Vm;\nuse crate::{ports::Clock, store::{log::A}};\n";
        assert_eq!(lines(&above_its_floor(&file("src/disk/raw.rs", text))), ["src/disk/raw.rs:2"]);
        assert!(above_its_floor(&file("src/service/mod.rs", text)).is_empty());
    }

    #[test]
    fn on_a_floor_named_without_use_or_through_super() {
        let text = "fn a() {\n    crate::cli::run();\n    super::super::cli::run();\n}";
        let violations = above_its_floor(&file("src/store/log.rs", text));
        assert_eq!(lines(&violations), ["src/store/log.rs:2", "src/store/log.rs:3"]);
        assert!(above_its_floor(&file("src/store/a/log.rs", "use super::super::cli;")).is_empty());
    }

    #[test]
    fn on_neighbours_that_may_not_meet_and_on_a_module_without_a_floor() {
        let text = "use crate::disk::Tracker;";
        assert_eq!(above_its_floor(&file("src/actors/mod.rs", text)).len(), 1);
        assert!(above_its_floor(&file("src/replication/mod.rs", text)).is_empty());
        assert_eq!(above_its_floor(&file("src/attic/mod.rs", "")).len(), 1);
        assert_eq!(above_its_floor(&file("src/cli/mod.rs", "use crate::attic::A;")).len(), 1);
    }

    #[test]
    fn on_an_impure_name_however_it_is_imported() {
        for text in ["use std::{fmt, fs};", "use std::fs::File;", "type A = std::fs::File;"] {
            assert_eq!(naming(&file("src/domain/a.rs", text), &["std::fs"], "").len(), 1, "{text}");
        }
    }

    #[test]
    fn but_not_on_a_name_in_a_comment_a_literal_or_a_unit_test() {
        for text in [
            "// Instant::now()",
            "/* a /* b */ Instant::now() */",
            r#"let a = "Instant::now()";"#,
            r##"let a = br#"" Instant::now()"#;"##,
            "#[cfg(test)]\nmod tests { fn a() { Instant::now(); } }",
            "#[cfg(test)]\nuse std::time::Instant::now;",
        ] {
            let file = file("src/store/log.rs", text);
            assert!(naming(&file, &["Instant::now"], "").is_empty(), "{text}");
        }
    }

    #[test]
    fn on_a_name_after_a_literal_or_a_unit_test() {
        for text in [
            "let a = '\"'; Instant::now()",
            "fn a<'a>() { Instant::now() }",
            "let a = '\\''; Instant::now()",
            "let a = \"\\\"\"; Instant::now()",
            "#[cfg(test)]\nmod tests { fn a() {} }\nfn b() { Instant::now() }",
        ] {
            let file = file("src/store/log.rs", text);
            assert_eq!(naming(&file, &["Instant::now"], "").len(), 1, "{text}");
        }
    }

    #[test]
    fn on_use_by_others_than_the_owner_and_on_an_owner_without_use() {
        let owned = Owned {
            what: "a thread",
            names: &["thread::spawn"],
            owners: &[("store/log.rs", "commits"), ("disk/nbd/", "serves")],
        };
        let spawns = |path: &str| file(path, "std::thread::spawn(run);");
        assert!(not_owned(&spawns("src/store/log.rs"), &owned).is_empty());
        assert!(not_owned(&spawns("src/disk/nbd/server.rs"), &owned).is_empty());
        assert_eq!(not_owned(&spawns("src/disk/raw.rs"), &owned).len(), 1);
        let idle = idle_owners(&[&spawns("src/disk/nbd/server.rs")], &owned);
        assert_eq!(lines(&idle), ["src/store/log.rs"]);
    }

    #[test]
    fn on_a_file_without_docs_or_end() {
        assert!(without_module_docs(&file("src/a.rs", "use a;")).is_some());
        assert!(without_module_docs(&file("src/a.rs", "//! Why.")).is_none());
        let long = "a;\n".repeat(LINES_MAX + 1);
        assert!(too_long(&file("src/a.rs", &long)).is_some());
        let tested = format!("#[cfg(test)]\nmod tests {{\n{long}}}");
        assert!(too_long(&file("src/a.rs", &tested)).is_none());
    }

    #[test]
    fn on_a_name_that_says_nothing() {
        for path in ["src/util.rs", "src/disk/file_utils.rs", "src/helpers/a.rs", "src/types.rs"] {
            assert!(says_nothing(path).is_some(), "{path}");
        }
        assert!(says_nothing("src/disk/utility_power.rs").is_none());
    }

    #[test]
    fn on_a_foreign_entry_of_the_top_level() {
        let ignored = "/target\n/lifeboat-data\n";
        for (name, foreign) in [("docs", true), ("target", false), ("src", false), (".ci", false)] {
            assert_eq!(is_foreign(name, ignored), foreign, "{name}");
        }
    }

    #[test]
    fn on_leftovers() {
        for leftover in LEFTOVERS {
            let text = format!("a\n// {leftover} later");
            assert_eq!(lines(&leftovers(&file("src/a.rs", &text))), ["src/a.rs:2"]);
        }
        assert!(leftovers(&file("src/a.rs", "// what is to do")).is_empty());
    }

    #[test]
    fn on_a_code_that_nothing_fails_with() {
        let catalogue =
            "LinkDown = \"SR-2101\", Recoverable\n    VaultFull = \"SR-2201\", Critical";
        let user = "fn a() -> Code { Code::LinkDown }";
        let sources =
            [file("src/domain/catalogue.rs", catalogue), file("src/replica/error.rs", user)];
        assert_eq!(lines(&unused_codes(sources.iter())), ["src/domain/catalogue.rs:2"]);
    }

    #[test]
    fn on_a_licence_or_a_source_that_is_not_allowed() {
        let allow = BTreeSet::from(["MIT", "Unicode-3.0"]);
        for (expression, allowed) in [
            ("MIT OR GPL-3.0", Some(true)),
            ("MIT/Apache-2.0", Some(true)),
            ("(MIT OR Apache-2.0) AND Unicode-3.0", Some(true)),
            ("MIT AND GPL-3.0", Some(false)),
            ("GPL-3.0 WITH Classpath-exception-2.0", Some(false)),
            ("none", Some(false)),
            ("MIT GPL-3.0", None),
            ("(MIT", None),
            ("", None),
        ] {
            assert_eq!(licence_allowed(expression, &allow), allowed, "{expression}");
        }
        let git = Crate {
            name: "a".to_owned(),
            licence: "GPL-3.0".to_owned(),
            source: Some("git+https://example.org/a".to_owned()),
        };
        assert!(foreign_source(&git).is_some() && unlicensed(&git, &allow).is_some());
    }

    #[test]
    fn on_a_pin_that_was_loosened_or_not_followed() {
        let lock = "[[package]]\nname = \"sled\"\nversion = \"0.34.7\"".parse().unwrap();
        for (pin, violations) in [("=0.34.7", 0), ("0.34.7", 1), ("=0.34.6", 1)] {
            let manifest = format!("[dependencies]\nsled = {{ version = \"{pin}\" }}");
            assert_eq!(loose_pins(&manifest.parse().unwrap(), &lock).len(), violations, "{pin}");
        }
    }

    #[test]
    fn on_an_advisory_ignored_without_a_reason() {
        let policy = "[advisories]\nignore = [{ id = \"A\", reason = \"\" }, \"B\"]";
        assert_eq!(unargued(&policy.parse().unwrap()).len(), 2);
    }
}
