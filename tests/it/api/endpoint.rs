//! How a service is found, and by whom it can be operated.

use super::{Asked, answer};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

#[test]
fn a_service_says_where_it_is_while_it_runs_and_keeps_its_token_for_its_owner() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mode = |file: &str| fs::metadata(data.join(file)).unwrap().mode() & 0o777;
    actix::System::new().block_on(async {
        let asked = Asked::start(&folder, "127.0.0.1:0").await;
        let endpoint: Value =
            serde_json::from_slice(&fs::read(data.join("endpoint.json")).unwrap()).unwrap();
        assert_eq!(endpoint["url"], format!("http://{}", asked.service.address));
        let token_file = endpoint["token_file"].as_str().unwrap();
        assert_eq!(fs::read_to_string(token_file).unwrap().trim(), asked.token);
        assert_eq!((mode("control.token"), mode("endpoint.json")), (0o600, 0o600));
        let first = asked.token.clone();
        asked.service.stop().await;
        assert!(!data.join("endpoint.json").exists(), "it runs no more");

        let asked = Asked::start(&folder, "127.0.0.1:0").await;
        assert_eq!(asked.token, first, "whoever copied the token can go on");
        asked.service.stop().await;

        fs::set_permissions(data.join("control.token"), fs::Permissions::from_mode(0o640)).unwrap();
        let asked = Asked::start(&folder, "127.0.0.1:0").await;
        assert_ne!(asked.token, first, "others could read it");
        assert_eq!(mode("control.token"), 0o600);
        asked.service.stop().await;
    });
}

#[test]
fn a_service_that_other_machines_can_reach_cannot_be_operated() {
    let folder = tempfile::tempdir().unwrap();
    actix::System::new().block_on(async {
        let asked = Asked::start(&folder, "0.0.0.0:0").await;
        let base = format!("http://127.0.0.1:{}", asked.service.address.port());
        let health = asked.http.get(format!("{base}/healthz"));
        assert_eq!(answer(health).await.status, 200);
        let status = asked.http.get(format!("{base}/lifeboat/v1/status"));
        assert_eq!(answer(status).await.status, 404);
        let data = folder.path().join("data");
        assert!(!data.join("endpoint.json").exists() && !data.join("control.token").exists());
        asked.service.stop().await;
    });
}
