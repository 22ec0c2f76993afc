//! `lifeboat vault` on vaults that no service knows.

use super::{done, lifeboat, text};
use lifeboat::domain::id::{DiskId, RecoveryPointId, VaultId, VmId};
use lifeboat::domain::time::Timestamp;
use lifeboat::replica::segment::{REGION_BYTES, SegmentHash};
use lifeboat::replica::{
    Completion, Consistency, DeltaHeader, DiskPoint, Names, RecoveryPointRecord, Vault,
};
use lifeboat::service::{open_folder, with_keys};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};
use uuid::Uuid;

const VAULT: VaultId = VaultId(Uuid::from_u128(0xfa));
const VM: VmId = VmId(Uuid::from_u128(0x77));
const DISK: DiskId = DiskId(Uuid::from_u128(0xd1));
const SIZE: u64 = REGION_BYTES + 1024 * 1024;

/// An encrypted vault with three points of one VM, and what its disk was at each. The first delta wrote
/// 200 KiB, the second lies over the last 100 KiB of it, the third elsewhere.
struct Lone {
    folder: tempfile::TempDir,
    states: Vec<Vec<u8>>,
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

impl Lone {
    fn make() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let lone = Self { folder, states: Vec::new() };
        done(&["vault", "key", "new", &lone.keys()]);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(lone.fill())
    }

    async fn fill(self) -> Self {
        fs::create_dir(self.path("vault")).unwrap();
        let vault = Vault::new(open_folder(&self.path("vault")).unwrap(), VAULT);
        let vault = with_keys(vault, Path::new(&self.keys())).unwrap();
        vault.establish().await.unwrap();
        let mut disk = vec![0; SIZE as usize];
        disk[REGION_BYTES as usize..][..5000].copy_from_slice(&noise(0, 5000));
        let copy = vault.base(DISK, 1, 1, SIZE);
        let mut region = copy.region(1);
        region.data(REGION_BYTES, &disk[REGION_BYTES as usize..]).await.unwrap();
        region.commit().await.unwrap();
        let (from_hash, at) = (SegmentHash::NONE, Timestamp::default());
        let completion = Completion { from_seq: 0, from_hash, usable_from: 0, at };
        copy.complete(completion).await.unwrap();
        let mut states = Vec::new();
        let mut previous = SegmentHash::NONE;
        let writes = [(0, 200 << 10), (100 << 10, 100 << 10), (400 << 10, 50 << 10)];
        for (sequence, (offset, len)) in (1..).zip(writes) {
            let data = noise(sequence, len);
            disk[offset..offset + len].copy_from_slice(&data);
            let cut_at = Timestamp::from_millis(60_000 * sequence.cast_signed());
            let header = DeltaHeader { sequence, epoch: 1, previous, cut_at, disk_size: SIZE };
            let mut delta = vault.delta(DISK, header);
            delta.data(offset as u64, &data).await.unwrap();
            previous = delta.commit().await.unwrap().hash;
            vault.put_point(&point(sequence, cut_at)).await.unwrap();
            states.push(disk.clone());
        }
        Self { states, ..self }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn keys(&self) -> String {
        self.path("keys").display().to_string()
    }

    fn segment(&self, sequence: u64) -> PathBuf {
        self.path(&format!("vault/v1/{VAULT}/disk/{DISK}/log/{sequence:020}.seg"))
    }

    /// `lifeboat vault <what> --vault .. --keys ..`
    fn run(&self, what: &[&str]) -> (i32, String, String) {
        let vault = self.path("vault").display().to_string();
        let keys = self.keys();
        let arguments = [&["vault"], what, &["--vault", &vault, "--keys", &keys]].concat();
        let output = lifeboat(&arguments);
        (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
    }

    fn verify(&self) -> (i32, Value) {
        let (code, stdout, stderr) = self.run(&["verify", "-o", "json"]);
        (code, serde_json::from_str(&stdout).unwrap_or_else(|_| panic!("{stdout}{stderr}")))
    }

    fn export(&self, more: &[&str]) -> (i32, String, String) {
        let to = self.path("disk.img").display().to_string();
        self.run(&[&["export", "db-1", "--disk", "data", "--to", &to], more].concat())
    }
}

fn point(cycle: u64, at: Timestamp) -> RecoveryPointRecord {
    RecoveryPointRecord {
        id: RecoveryPointId::derived(VM.0, cycle),
        vm: VM,
        cycle,
        at,
        consistency: Consistency::Crash,
        stored_bytes: 100,
        disks: BTreeMap::from([(DISK, DiskPoint { sequence: cycle, generation: 1, epoch: 1 })]),
        names: Names { vm: "db-1".to_owned(), disks: BTreeMap::from([(DISK, "data".to_owned())]) },
    }
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_vault_alone_tells_its_vms_and_gives_its_disks_back() {
    let lone = Lone::make();
    let (code, listed, _) = lone.run(&["list"]);
    assert_eq!(code, 0);
    assert!(listed.starts_with("db-1  (") && listed.contains("disks: data"), "{listed}");
    assert_eq!(listed.lines().count(), 4);
    let (_, json, _) = lone.run(&["list", "-o", "json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["points"][2]["cycle"], 3);

    let to = lone.path("disk.img");
    let (code, said, error) = lone.export(&[]);
    assert_eq!(code, 0, "{said}{error}");
    assert!(fs::read(&to).unwrap() == lone.states[2]);
    assert!(fs::metadata(&to).unwrap().blocks() * 512 < 1 << 20, "holes stay holes");
    let (code, _, error) = lone.export(&["--point", "1"]);
    assert_eq!(code, 2);
    assert!(error.contains("disk.img exists") && error.contains("--force"), "{error}");
    for (wanted, state) in [("1", 0), ("1970-01-01T00:02:30Z", 1), ("latest", 2)] {
        let (code, _, error) = lone.export(&["--point", wanted, "--force"]);
        assert_eq!(code, 0, "{error}");
        assert!(fs::read(&to).unwrap() == lone.states[state], "{wanted}");
    }
    let (code, _, error) = lone.export(&["--point", "9", "--force"]);
    assert_eq!(code, 2);
    assert!(error.contains("no recovery point 9; it has: 1 of"), "{error}");
}

#[test]
fn an_export_has_a_lease_while_it_reads_and_none_after() {
    let lone = Lone::make();
    let leases = lone.path(&format!("vault/v1/{VAULT}/vm/{VM}/lease"));
    let held = || -> Vec<String> {
        let files = fs::read_dir(&leases).into_iter().flatten().map(|file| file.unwrap().path());
        let files = files.filter(|file| file.extension().is_some_and(|it| it == "json"));
        files.map(|file| fs::read_to_string(file).unwrap()).collect()
    };
    assert_eq!(lone.export(&["--point", "2"]).0, 0);
    assert!(leases.exists() && held().is_empty(), "it was given up");

    // An export to a pipe waits for its reader, and then cannot use what is no file.
    let pipe = lone.path("disk.img.partial");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let (meanwhile, code) = thread::scope(|scope| {
        let export = scope.spawn(|| lone.export(&["--point", "2", "--force"]).0);
        let until = Instant::now() + Duration::from_mins(1);
        while held().is_empty() && Instant::now() < until {
            thread::sleep(Duration::from_millis(10));
        }
        let meanwhile = held();
        let _reader = fs::OpenOptions::new().read(true).write(true).open(&pipe).unwrap();
        (meanwhile, export.join().unwrap())
    });
    assert_eq!((meanwhile.len(), code), (1, 2));
    let lease = &meanwhile[0];
    assert!(lease.contains(&DISK.to_string()) && lease.contains("[[1,2]]"), "{lease}");
    assert_eq!(held(), [""; 0], "also where it did not end well");
}

#[test]
fn a_vault_that_takes_no_lease_is_exported_with_a_warning() {
    let lone = Lone::make();
    let vm = lone.path(&format!("vault/v1/{VAULT}/vm/{VM}"));
    // Whoever may write anything is kept from it by a file where the folder would be.
    fs::write(vm.join("lease"), "").unwrap();
    let (code, said, error) = lone.export(&[]);
    assert_eq!(code, 0, "{said}{error}");
    assert!(error.contains("no lease of the recovery point could be taken"), "{error}");
    assert!(fs::read(lone.path("disk.img")).unwrap() == lone.states[2]);
}

#[test]
fn other_formats_are_converted_by_qemu_img() {
    let lone = Lone::make();
    let installed = Command::new("qemu-img").arg("--version").output().is_ok();
    let to = lone.path("disk.img");
    for format in ["qcow2", "vhd", "vhdx"] {
        let (code, _, error) = lone.export(&["--format", format, "--force"]);
        if installed {
            assert_eq!(code, 0, "{error}");
            let compared = Command::new("qemu-img")
                .args(["convert", "-O", "raw"])
                .args([&to, &lone.path("back.img")])
                .status();
            assert!(compared.unwrap().success());
            assert!(fs::read(lone.path("back.img")).unwrap() == lone.states[2], "{format}");
        } else {
            assert_eq!(code, 2);
            assert!(error.contains("needs qemu-img, which is not installed"), "{error}");
        }
    }
}

#[test]
fn a_sound_vault_is_proved_and_damage_counts_against_the_points_that_show_it() {
    let lone = Lone::make();
    let (code, report) = lone.verify();
    assert_eq!((code, &report["sound"]), (0, &Value::Bool(true)), "{report}");
    // The frame of the base has 64 KiB.
    assert_eq!(report["checked_bytes"], (64 + 350) << 10);
    assert_eq!(report["vms"][0]["sound_points"], serde_json::json!([1, 2, 3]));

    // The third frame of the first delta, which the second delta covers.
    let first = lone.segment(1);
    flip(&first, 196 + 2 * (65536 + 16) + 50);
    let (code, report) = lone.verify();
    assert_eq!(code, 1);
    let vm = &report["vms"][0];
    assert_eq!(vm["sound_points"], serde_json::json!([2, 3]), "{report}");
    let because = vm["broken_points"][0]["because"][0].as_str().unwrap();
    assert!(because.contains("00000000000000000001.seg at byte") && because.contains("frame"));
    assert_eq!(vm["action"], "restore from point 3 or another sound one");
    assert_eq!(lone.run(&["verify", "--quick"]).0, 0, "the data is not read");
    let (code, _, error) = lone.export(&["--point", "1"]);
    assert_eq!(code, 2);
    assert!(error.contains("00000000000000000001.seg at byte"), "{error}");
    let left = fs::read_dir(lone.folder.path()).unwrap().count();
    assert_eq!(left, 2, "an export that did not end leaves nothing");
    assert_eq!(lone.export(&["--point", "2"]).0, 0);

    fs::remove_file(lone.segment(3)).unwrap();
    let (code, said, _) = lone.run(&["verify", "--quick"]);
    assert_eq!(code, 1);
    assert!(said.contains("db-1: 1 of 3 recovery points CANNOT be restored: 3"), "{said}");
    assert!(said.contains("resynchronize the VM") && said.contains("from point 2"), "{said}");

    let region = lone.path(&format!("vault/v1/{VAULT}/disk/{DISK}/base/00000001/00000001.seg"));
    flip(&region, 300);
    let (_, report) = lone.verify();
    assert_eq!(report["vms"][0]["sound_points"], serde_json::json!([]), "{report}");
    assert_eq!(report["findings"].as_array().unwrap().len(), 3);
    let points = lone.path(&format!("vault/v1/{VAULT}/vm/{VM}/rp"));
    flip(&points.join("00000000000000000002.json"), 40);
    let (_, report) = lone.verify();
    assert_eq!(report["vms"][0]["unreadable_points"], 1, "{report}");
}

#[test]
fn damaged_checksums_are_named_and_count_against_no_point() {
    let lone = Lone::make();
    let base = lone.path(&format!("vault/v1/{VAULT}/disk/{DISK}/base/00000001"));
    let sums = fs::read_dir(base).unwrap().map(|entry| entry.unwrap().path());
    let sums = sums.filter(|path| path.extension().is_some_and(|it| it == "sum"));
    let sums: Vec<PathBuf> = sums.collect();
    let [sums] = &sums[..] else { panic!("{sums:?}") };
    let name = sums.file_name().unwrap().to_str().unwrap();
    let whole = fs::read(sums).unwrap();
    assert_eq!(lone.verify().1["bad_checksums"], serde_json::json!([]));
    // In the header, in a record, and with its own checksum made to fit again.
    for (at, what) in [(20, "the header"), (70, "the record"), (65, "the record")] {
        flip(sums, at);
        let (code, report) = lone.verify();
        assert_eq!(code, 0, "{report}");
        assert_eq!(report["vms"][0]["sound_points"], serde_json::json!([1, 2, 3]));
        let said = report["bad_checksums"][0].as_str().unwrap();
        assert!(said.contains(name) && said.contains(what), "{said}");
        fs::write(sums, &whole).unwrap();
    }
    let mut forged = whole.clone();
    forged[70] ^= 1;
    let checksum = crc32fast::hash(&forged[68..324]).to_le_bytes();
    forged[64..68].copy_from_slice(&checksum);
    fs::write(sums, &forged).unwrap();
    assert_eq!(lone.run(&["verify", "--quick"]).1.matches("damaged").count(), 0);
    let (code, said, _) = lone.run(&["verify"]);
    assert_eq!(code, 0, "{said}");
    assert!(
        said.contains(name) && said.contains("not those of the data at byte 67108864"),
        "{said}"
    );
    assert!(said.contains("of no harm to any recovery point"), "{said}");
    fs::write(sums, &whole[..100]).unwrap();
    assert!(lone.verify().1["bad_checksums"][0].as_str().unwrap().contains(name));
    fs::remove_file(sums).unwrap();
    assert_eq!(lone.verify().1["bad_checksums"], serde_json::json!([]), "they may be missing");
}

#[test]
fn a_vm_of_which_a_vault_has_no_points_is_not_called_sound() {
    let lone = Lone::make();
    let points = lone.path(&format!("vault/v1/{VAULT}/vm/{VM}/rp"));
    for point in fs::read_dir(&points).unwrap() {
        fs::remove_file(point.unwrap().path()).unwrap();
    }
    let (code, said, _) = lone.run(&["verify"]);
    assert_eq!((code, said.lines().next()), (0, Some(&*format!("{VM}: no recovery points"))));
    let (_, report) = lone.verify();
    assert_eq!(report["vms"][0]["deleted_meanwhile"], false);
}

#[test]
fn keys_are_made_rotated_and_kept_from_others() {
    let lone = Lone::make();
    let keys = PathBuf::from(lone.keys());
    assert_eq!(fs::metadata(&keys).unwrap().mode() & 0o777, 0o600);
    let again = lifeboat(&["vault", "key", "new", &lone.keys()]);
    assert_eq!(again.status.code(), Some(2), "a key file is never overwritten");
    let old = fs::read_to_string(&keys).unwrap();
    let id = old.lines().last().unwrap().split(' ').nth(1).unwrap();

    done(&["vault", "key", "rotate", &lone.keys()]);
    assert_eq!(fs::metadata(&keys).unwrap().mode() & 0o777, 0o600);
    let (code, report) = lone.verify();
    assert_eq!(code, 0, "{report}");
    assert_eq!(report["old_keys"][0]["key"], id);
    // Three segments, a region, and the list that closes the base.
    assert_eq!(report["old_keys"][0]["objects"].as_array().unwrap().len(), 5, "{report}");

    let vault = lone.path("vault").display().to_string();
    let without = lifeboat(&["vault", "list", "--vault", &vault]);
    assert_eq!(without.status.code(), Some(2));
    assert!(text(&without.stderr).contains("the vault is encrypted: name its key file"));
    fs::set_permissions(&keys, fs::Permissions::from_mode(0o640)).unwrap();
    let (code, _, error) = lone.run(&["list"]);
    assert_eq!(code, 2);
    assert!(error.contains("others may read or change it (mode 640)"), "{error}");
}
