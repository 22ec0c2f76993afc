//! One suite over every kind of storage that a vault can be in: memory, a folder, Azure Blob Storage (as
//! Azurite serves it) and S3 (as moto serves it). The servers are started here, on free ports.

use super::encryption::keys;
use super::faulty_store::{Fault, FaultyStore};
use super::*;
use lifeboat::domain::id::RecoveryPointId;
use lifeboat::replica::segment::REGION_BYTES;
use lifeboat::replica::{Consistency, DiskPoint, FenceOutcome, Names, RecoveryPointRecord};
use lifeboat::service::{Config, open_storage};
use ring::hmac;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;

/// A server that ends with the test.
struct Server {
    child: Child,
    address: String,
}

impl Server {
    /// Starts a server that says where it listens; `None` if it is not installed.
    fn start(test: &str, program: &str, arguments: &[&str]) -> Option<Self> {
        let mut command = Command::new(program);
        command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
        let Ok(mut child) = command.spawn() else {
            skipped(test, program);
            return None;
        };
        let (tell, told) = std::sync::mpsc::channel();
        let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let outputs: [Box<dyn Read + Send>; 2] = [Box::new(stdout), Box::new(stderr)];
        // Whatever it says is read until it ends, or a full pipe would stop it.
        for output in outputs {
            let tell = tell.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    if let Some((_, address)) = line.split_once("http://") {
                        let _ = tell.send(address.trim().to_owned());
                    }
                }
            });
        }
        drop(tell);
        let address = told.recv().expect("the server ended before it listened");
        Some(Self { child, address })
    }
}

#[expect(clippy::print_stdout, reason = "whoever runs the tests is told what did not run")]
fn skipped(test: &str, program: &str) {
    println!("SKIPPED {test}: {program} is not installed");
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Status line of a request without a body.
fn put(address: &str, target: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let host = format!("Host: {address}\r\nContent-Length: 0\r\nConnection: close\r\n");
    write!(stream, "PUT {target} HTTP/1.1\r\n{host}\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.lines().next().unwrap().to_owned()
}

fn storage(toml: &str) -> Arc<dyn ObjectStore> {
    let text = format!("data = 'unused'\n{toml}");
    open_storage(&Config::parse(&text, std::path::Path::new("test.toml")).unwrap()).unwrap()
}

/// The account and key that Azurite knows, as its documentation prints them.
const ACCOUNT: &str = "devstoreaccount1";
const KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// A shared access signature for everything in the account.
fn signature() -> String {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD as BASE64;
    let (version, expires) = ("2021-06-08", "2099-01-01T00:00:00Z");
    let fields = [ACCOUNT, "rwdlac", "b", "sco", "", expires, "", "https,http", version, "", ""];
    let key = hmac::Key::new(hmac::HMAC_SHA256, &BASE64.decode(KEY).unwrap());
    let signature = BASE64.encode(hmac::sign(&key, fields.join("\n").as_bytes()));
    let signature = signature.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
    let rights = "ss=b&srt=sco&sp=rwdlac&spr=https,http";
    format!("sv={version}&{rights}&se={expires}&sig={signature}")
}

#[tokio::test]
async fn a_vault_in_memory_keeps_its_promises() {
    keeps_its_promises(Arc::new(InMemory::new())).await;
}

#[tokio::test]
async fn a_vault_in_a_folder_keeps_its_promises() {
    let folder = tempfile::tempdir().unwrap();
    let config = format!("vault.folder = '{}'", folder.path().join("vault").display());
    keeps_its_promises(storage(&config)).await;
}

#[tokio::test]
async fn a_vault_in_azure_keeps_its_promises() {
    let arguments = "--blobPort 0 --skipApiVersionCheck --disableTelemetry --inMemoryPersistence";
    let arguments: Vec<&str> = arguments.split(' ').collect();
    let test = "a_vault_in_azure_keeps_its_promises";
    let Some(server) = Server::start(test, "azurite-blob", &arguments) else { return };
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    let address = &server.address;
    // Azurite answers 500 to a batch of deletions under a shared access signature, whatever is in it.
    for (container, credential) in [("by-sas", signature()), ("by-key", KEY.to_owned())] {
        let target = format!("/{ACCOUNT}/{container}?restype=container&{}", signature());
        assert!(put(address, &target).contains("201"), "make the container");
        std::fs::write(&secret, credential).unwrap();
        let store = storage(&format!(
            "vault.azure = {{ account = '{ACCOUNT}', container = '{container}', \
             endpoint = 'http://{address}/{ACCOUNT}', credential_file = '{}' }}",
            secret.display()
        ));
        if container == "by-key" {
            keeps_its_promises(store).await;
        } else {
            let vault = Vault::new(store, VAULT);
            vault.establish().await.unwrap();
            empty_base(&vault, MIB).await;
            vault.open_disk(DISK, 0).await.unwrap();
        }
    }
    std::fs::write(&secret, KEY.replace("Eby8", "Eby9")).unwrap();
    let refused = storage(&format!(
        "vault.azure = {{ account = '{ACCOUNT}', container = 'by-key', \
         endpoint = 'http://{address}/{ACCOUNT}', credential_file = '{}' }}",
        secret.display()
    ));
    let error = Vault::new(refused, VAULT).establish().await.unwrap_err();
    assert_code(&error, Code::AuthorizationFailed, "vault.json");
}

#[tokio::test]
async fn a_vault_in_s3_keeps_its_promises() {
    let test = "a_vault_in_s3_keeps_its_promises";
    let arguments = ["-H", "127.0.0.1", "-p", "0"];
    let Some(server) = Server::start(test, "moto_server", &arguments) else { return };
    let address = &server.address;
    assert!(put(address, "/bucket").contains("200"), "make the bucket");
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "id:secret\n").unwrap();
    keeps_its_promises(storage(&format!(
        "vault.s3 = {{ bucket = 'bucket', endpoint = 'http://{address}', credential_file = '{}' }}",
        secret.display()
    )))
    .await;
}

/// Everything that a vault needs of its storage: establish, delta, lost acknowledgements, fence, points,
/// base, reading an image, damage.
async fn keeps_its_promises(store: Arc<dyn ObjectStore>) {
    let faulty = FaultyStore::over(store.clone());
    let vault = Vault::new(faulty.clone(), VAULT).with_keys(keys(5));
    let absent = vault.probe().await.unwrap_err();
    assert_code(&absent, Code::LinkDown, "vault.json is not there");
    vault.establish().await.unwrap();
    vault.establish().await.unwrap();
    vault.probe_write().await.unwrap();

    let size = REGION_BYTES + MIB;
    let copy = vault.base(DISK, 1, 1, size);
    let mut region = copy.region(0);
    region.data(0, &noise(1, 200_000)).await.unwrap();
    region.commit().await.unwrap().unwrap();
    let mut last = copy.region(1);
    last.data(REGION_BYTES, &[3; 4096]).await.unwrap();
    // Its checksums go before it.
    faulty.next_puts(&[Fault::None, Fault::AnswerLost]);
    assert!(last.commit().await.is_err());
    let again = vault.base(DISK, 1, 1, size);
    assert_eq!(again.regions_present().await.unwrap().len(), 2);
    assert_eq!(again.complete(from_the_start()).await.unwrap(), from_the_start());

    let data = noise(2, 17 * MIB as usize);
    let first = header(1, SegmentHash::NONE, size);
    faulty.next_puts(&[Fault::None; 4]);
    faulty.next_puts(&[Fault::AnswerLost]);
    let mut writer = vault.delta(DISK, first);
    writer.data(4096, &data).await.unwrap();
    assert_code(&writer.commit().await.unwrap_err(), Code::LinkDown, "");
    let puts = faulty.put_count.load(Ordering::Relaxed);
    let mut writer = vault.delta(DISK, first);
    writer.data(4096, &data).await.unwrap();
    let committed = writer.commit().await.unwrap();
    assert_eq!(faulty.put_count.load(Ordering::Relaxed) - puts, 1, "the parts were there");
    let other = DeltaHeader { epoch: 2, ..first };
    let error = vault.delta(DISK, other).commit().await.unwrap_err();
    assert!(matches!(error, VaultError::OtherWriter { ours: 2, theirs: 1, .. }), "{error}");

    let fence = DeltaHeader { epoch: 2, ..header(2, committed.hash, size) };
    for _ in 0..2 {
        let fenced = vault.fence(DISK, fence).await.unwrap();
        assert!(matches!(fenced, FenceOutcome::Fenced(_)), "{fenced:?}");
    }
    let zombie = vault.delta(DISK, header(2, committed.hash, size)).commit().await.unwrap_err();
    assert!(matches!(zombie, VaultError::Fenced { fence: 2, .. }), "{zombie}");
    assert_eq!(vault.last_sequence(DISK).await.unwrap(), Some(2));

    let point = |cycle| RecoveryPointRecord {
        id: RecoveryPointId::derived(VM.0, cycle),
        vm: VM,
        cycle,
        at: Timestamp::from_millis(cycle.cast_signed()),
        consistency: Consistency::Crash,
        stored_bytes: 1,
        disks: BTreeMap::from([(DISK, DiskPoint { sequence: 1, generation: 1, epoch: 1 })]),
        names: Names::default(),
    };
    for cycle in [2, 1, 2] {
        vault.put_point(&point(cycle)).await.unwrap();
    }
    assert_eq!(vault.points(VM).await.unwrap().points, [1, 2].map(point));
    assert_eq!(vault.drop_points(VM, &[point(2).id]).await.unwrap(), 1);
    assert_eq!(vault.point(VM, 1).await.unwrap(), None);

    let image = vault.open_disk(DISK, 2).await.unwrap();
    let mut found = vec![0xee; data.len()];
    image.read_at(4096, &mut found).await.unwrap();
    assert!(found == data);
    found.resize(4097, 0xee);
    image.read_at(REGION_BYTES - 1, &mut found).await.unwrap();
    assert_eq!(found, [&[0; 1][..], &[3; 4096]].concat());

    let path = Path::from(format!("v1/{VAULT}/disk/{DISK}/log/00000000000000000001.seg"));
    let whole = bytes_of(&*store, &path).await;
    overwrite(&*store, &path, whole[..1000].to_vec()).await;
    let error = vault.open_disk(DISK, 2).await.unwrap_err();
    assert_code(&error, Code::ReplicaDamaged, "00000000000000000001.seg at byte");
    let error = image.read_at(0, &mut vec![0; 18 * MIB as usize]).await.unwrap_err();
    assert_code(&error, Code::ReplicaDamaged, "00000000000000000001.seg at byte");
    store.delete(&path).await.unwrap();
    let error = vault.open_disk(DISK, 2).await.unwrap_err();
    assert_code(&error, Code::ReplicaDamaged, "00000000000000000001.seg: it is missing");
}

#[tokio::test]
async fn a_storage_that_overwrites_what_exists_is_refused_by_its_name() {
    let store = FaultyStore::over(Arc::new(InMemory::new()));
    store.forget_create();
    let error = Vault::new(store, VAULT).establish().await.unwrap_err();
    assert_code(&error, Code::ConfigurationInvalid, "establish vault in FaultyStore(InMemory)");
}

/// Answers every request with one status.
fn answering(status: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let head = BufReader::new(stream.try_clone().unwrap());
            head.lines().map_while(Result::ok).take_while(|line| !line.is_empty()).for_each(drop);
            let close = "Content-Length: 0\r\nConnection: close\r\n\r\n";
            let _ = write!(stream, "HTTP/1.1 {status}\r\n{close}");
        }
    });
    address
}

#[tokio::test]
async fn what_an_object_store_answers_has_its_place_in_the_catalogue() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    let answers = [
        ("429 Too Many Requests", Code::VaultBusy),
        ("503 Slow Down", Code::VaultBusy),
        ("507 Insufficient Storage", Code::VaultFull),
        ("401 Unauthorized", Code::AuthenticationFailed),
        ("403 Forbidden", Code::AuthorizationFailed),
    ];
    for (status, code) in answers {
        let address = answering(status);
        let place =
            format!("endpoint = 'http://{address}', credential_file = '{}'", secret.display());
        let stores = [
            ("id:secret", format!("vault.s3 = {{ bucket = 'bucket', {place} }}")),
            (KEY, format!("vault.azure = {{ account = 'a', container = 'c', {place} }}")),
        ];
        for (credential, config) in stores {
            std::fs::write(&secret, credential).unwrap();
            let error = Vault::new(storage(&config), VAULT).establish().await.unwrap_err();
            assert_code(&error, code, "vault.json");
        }
    }
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    std::fs::write(&secret, "id:secret").unwrap();
    let place = format!("endpoint = 'http://{gone}', credential_file = '{}'", secret.display());
    let store = storage(&format!("vault.s3 = {{ bucket = 'bucket', {place} }}"));
    let error = Vault::new(store, VAULT).probe().await.unwrap_err();
    assert_code(&error, Code::LinkDown, "vault.json");
}

#[test]
fn the_settings_of_an_object_store_are_checked() {
    let said = |toml: &str| {
        let text = format!("data = 'unused'\n{toml}");
        let config = Config::parse(&text, std::path::Path::new("test.toml"));
        match config {
            Err(error) => error.to_string(),
            Ok(config) => open_storage(&config).unwrap_err().to_string(),
        }
    };
    let s3 = "vault.s3 = { bucket = 'b'";
    assert!(said(&format!("{s3} }}")).contains("needs credential_env or credential_file"));
    let both = format!(
        "{s3}, credential_env = 'A' }}\nvault.azure = {{ account = 'a', container = 'c' }}"
    );
    assert!(said(&both).contains("is in Azure and in S3: keep one"), "{}", said(&both));
    let unset = format!("{s3}, credential_env = 'LIFEBOAT_TEST_NOT_SET' }}");
    assert!(said(&unset).contains("variable LIFEBOAT_TEST_NOT_SET"), "{}", said(&unset));
}
